"""The frame: commands from plugins, errors as messages, and what `quire --help` never imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import click
import pytest
from click.testing import Result

import quire
from quire.cli import _main
from quire.cli._main import _option
from quire.contracts import CommandSpec
from quire.errors import QuireError
from quire.plugins import Found, PluginRegistry, discover

Run = Callable[..., Result]
HEAVY = {"torch", "yaml", "transformers", "pydantic", "numpy", "huggingface_hub", "tokenizers", "rich"}


def modules_after(*arguments: str) -> tuple[int, set[str]]:
    """Exit code and modules of a fresh interpreter that ran `quire` with these arguments."""
    code = (
        "import json, sys\nfrom quire.cli import main\n"
        f"code = main({list(arguments)!r})\n"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return int(code), set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["bench", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code, modules = modules_after(*arguments)
    assert code == 0
    assert modules & HEAVY == set()
    assert not any(name.startswith("quire.cli.generate") for name in modules)


@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "--json"]])
def test_listing_plugins_imports_nothing_heavy(arguments: list[str]) -> None:
    code, modules = modules_after(*arguments)
    assert code == 0
    assert modules & (HEAVY - {"rich"}) == set()


@pytest.mark.parametrize("arguments", [["generate", "--help"], ["config", "--schema"]])
def test_looking_at_settings_imports_no_torch(arguments: list[str]) -> None:
    code, modules = modules_after(*arguments)
    assert code == 0
    assert modules & {"torch", "transformers", "numpy"} == set()


def test_the_installed_script_has_an_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quire.cli", "nonsense"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "No such command 'nonsense'" in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)  # whatever is written now fails with EPIPE
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quire.cli", "config", "--schema"],
            check=False,
            stdout=write,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode in (1, 141)


def test_help_lists_the_cores_commands_in_order(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_PLUGINS_ALLOW", "quire")  # other distributions' stand between them
    lines = run("--help").stdout.split("Commands:\n")[1].splitlines()
    expected = "generate chat complete plugins doctor plan config bench completion"
    assert " ".join(line.split()[0] for line in lines) == expected
    assert run("--version").stdout == f"quire, version {quire.__version__}\n"


def registry_with(
    monkeypatch: pytest.MonkeyPatch, *specs: CommandSpec, command: object = None, status: str = "ok"
) -> None:
    """Installs commands of a made-up distribution beside the core's."""

    @click.command()
    def hello() -> None:
        click.echo("hello")

    @click.command()
    def fail() -> None:
        raise QuireError("first line\nsecond line")

    module = ModuleType("greeter")
    module.__dict__.update(hello=hello, fail=fail, wrong=42)
    monkeypatch.setitem(sys.modules, "greeter", module)
    core = discover().found
    extra = [Found("command", spec, "quire-greet", "1.0", status) for spec in specs]
    monkeypatch.setattr(_main, "discover", lambda allow: PluginRegistry([*core, *extra]))


def spec(name: str = "hello", target: str = "greeter:hello", **rest: object) -> CommandSpec:
    return CommandSpec(name=name, api=1, target=target, summary="Says hello.", **rest)  # type: ignore[arg-type]


def test_a_plugins_command_runs_at_the_top_and_in_a_group(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    registry_with(monkeypatch, spec(), spec(group="bench"))
    assert run("hello").stdout == "hello\n"
    assert run("bench", "hello").stdout == "hello\n"
    assert ["hello", "Says", "hello."] in [line.split() for line in run("--help").stdout.splitlines()]


def test_help_does_not_import_a_plugins_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    registry_with(monkeypatch, spec(target="absent_module:hello"))
    assert run("--help").exit_code == 0
    result = run("hello")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "absent_module" in result.stderr


def test_what_is_not_a_command_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    registry_with(monkeypatch, spec(target="greeter:wrong"))
    assert "greeter:wrong is a int; it must be a click.Command" in run("hello").stderr


@pytest.mark.parametrize("name", ["generate", "bench"])
def test_a_command_named_twice_fails_alone(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    registry_with(monkeypatch, spec(name))
    assert run("--help").exit_code == 0
    result = run(name, "--help")
    assert result.exit_code == 1
    assert f"The command '{name}' comes from" in result.stderr
    assert "quire-greet" in result.stderr


@pytest.mark.parametrize(
    ("one", "status", "reason"),
    [(spec(), "implements api 9", "implements api 9"), (spec(group="engines"), "ok", "not one of: bench")],
)
def test_unusable_commands_are_listed_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch, one: CommandSpec, status: str, reason: str
) -> None:
    registry_with(monkeypatch, one, status=status)
    text = " ".join(run("--help").stdout.split("Not usable:\n")[1].split())
    assert reason in text
    result = run("hello")
    assert (result.exit_code, reason in result.stderr) == (1, True)


def test_every_line_of_an_error_is_marked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    registry_with(monkeypatch, spec("fail", "greeter:fail"))
    result = run("fail")
    assert (result.exit_code, result.stderr) == (1, "error: first line\nerror: second line\n")


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["x", "--config", "a"], "a"),
        (["--config=a", "--config=b"], "b"),
        (["--config"], None),
        (["--", "--config", "a"], None),
        (["--configs", "a"], None),
    ],
)
def test_an_option_is_found_before_parsing(arguments: Sequence[str], value: str | None) -> None:
    assert _option(arguments, "--config") == value
