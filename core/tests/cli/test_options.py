"""Flags made from a command's own section of the configuration, and the values they give."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import Result
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from quire.cli import _main
from quire.cli._render import to_json
from quire.cli.options import (
    SettingsCommand,
    configuration,
    engine_options,
    sampling_options,
    section_options,
)
from quire.contracts import CommandSpec
from quire.plugins import Found, PluginRegistry, discover

Run = Callable[..., Result]


class GreetSection(BaseModel):
    """A section with a field of every kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="here", description="Address of the `host`.")
    port: int = Field(default=1, ge=0, le=65535, description="Port.")
    keys: list[SecretStr] = Field(default_factory=list, description="Keys.")
    name: list[str] = Field(default_factory=list, description="Names.")
    progress: list[str] = Field(default_factory=list)
    file: Path | None = Field(default=None, description="File; null for none.")
    patience: Annotated[float, Field(gt=0)] | None = None
    politely: bool = Field(default=True, description="Be polite.")
    tone: Literal["low", "high"] = "low"
    words: dict[str, int] = Field(default_factory=dict)
    seed: int = Field(default=0, description="Not the engine's seed.")
    dtype: str = Field(default="", description="Not the engine's type.")


@pytest.fixture(autouse=True)
def _greet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with the command `greet` and its section; the command prints what it was given."""

    @click.command("greet", cls=SettingsCommand)
    @click.argument("model", required=False)
    @section_options(
        "greet", GreetSection, title="Greeting options", everyday=("host", "port", "keys", "politely")
    )
    @sampling_options
    @engine_options
    def greet(model: str | None) -> None:
        config = configuration(model)
        section = config.sections["greet"]
        assert isinstance(section, GreetSection)
        values = section.model_dump(mode="json")
        values["keys"] = [key.get_secret_value() for key in section.keys]
        origins = {name: origin for name, origin in config.origins().items() if name.startswith("greet.")}
        click.echo(to_json({"values": values, "origins": origins, "seed": config.seed}))

    module = ModuleType("greet_everything")
    module.__dict__.update(greet=greet, GreetSection=GreetSection)
    monkeypatch.setitem(sys.modules, "greet_everything", module)
    spec = CommandSpec(
        name="greet", api=1, target="greet_everything:greet", options="greet_everything:GreetSection"
    )
    found = discover().found
    monkeypatch.setattr(
        _main, "discover", lambda allow: PluginRegistry([*found, Found("command", spec, "quire-greet", "1")])
    )


def greeting(run: Run, *arguments: str) -> dict[str, Any]:
    result = run("greet", *arguments)
    assert result.exit_code == 0, result.stderr
    printed: dict[str, Any] = json.loads(result.stdout)
    return printed


def test_a_section_that_nothing_sets_has_its_defaults(run: Run) -> None:
    found = greeting(run)
    assert found["values"] == GreetSection().model_dump(mode="json")
    assert set(found["origins"]) == {f"greet.{name}" for name in GreetSection.model_fields}
    assert set(found["origins"].values()) == {"default"}


def test_flags_win_over_the_environment_and_that_over_the_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text("greet:\n  host: file\n  port: 2\n  keys: [file]\n")
    monkeypatch.setenv("QUIRE_GREET__PORT", "3")
    monkeypatch.setenv("QUIRE_GREET__KEYS", "environment,too")
    found = greeting(run, "--config", str(file), "--key", "flag")
    assert {key: found["values"][key] for key in ("host", "port", "keys", "tone")} == {
        "host": "file",
        "port": 3,
        "keys": ["flag"],
        "tone": "low",
    }
    assert {key: found["origins"][f"greet.{key}"] for key in ("host", "port", "keys", "tone")} == {
        "host": f"{file}:2",
        "port": "QUIRE_GREET__PORT",
        "keys": "command line",
        "tone": "default",
    }


def test_every_kind_of_field_has_its_flag(run: Run) -> None:
    found = greeting(
        run,
        *("--key", "a,b", "--key", "c", "--name", "x", "--name", "y", "--progress", "p"),
        *("--file", "f", "--patience", "1.5", "--no-politely", "--tone", "high", "--words", '{"w": 1}'),
    )["values"]
    assert found["keys"] == ["a,b", "c"]  # a comma may be part of a key
    assert found["name"] == ["x", "y"]
    assert found["progress"] == ["p"]
    assert found["file"] == "f"
    assert found["patience"] == 1.5
    assert found["politely"] is False
    assert found["tone"] == "high"
    assert found["words"] == {"w": 1}


def test_names_of_the_engine_and_of_requests_stay_theirs(run: Run) -> None:
    found = greeting(
        run, "--greet-seed", "7", "--greet-dtype", "mine", "--engine-seed", "5", "--dtype", "half"
    )
    assert (found["values"]["seed"], found["values"]["dtype"], found["seed"]) == (7, "mine", 5)


def test_help_has_a_section_of_its_own_and_hides_the_rare(run: Run) -> None:
    everyday, everything = (run("greet", flag).stdout for flag in ("--help", "--help-all"))
    order = ["Greeting options:", "Sampling options:", "Engine options:"]
    assert sorted(order, key=everyday.index) == order
    assert all(title in everything for title in order)
    everyday, everything = (
        text.split("Greeting options:")[1].split("Sampling options:")[0] for text in (everyday, everything)
    )
    assert [line.split()[0] for line in everyday.splitlines() if line.startswith("  --")] == [
        "--host",
        "--port",
        "--key",
        "--politely",
    ]
    assert all(f"  {flag} " in everything for flag in ("--name", "--patience", "--greet-seed", "--progress"))
    assert "Address of the host." in everyday


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--port", "x"], 2, "--port"),
        (["--tone", "shrill"], 2, "--tone"),
        (["--words", "[]"], 2, "must be a JSON object"),
        (["--port", "70000"], 1, "error: greet.port: must be less than or equal to 65535, got 70000"),
        (["--patience", "0"], 1, "error: greet.patience: must be greater than 0, got 0.0"),
    ],
)
def test_wrong_values_are_messages(run: Run, arguments: list[str], code: int, expected: str) -> None:
    result = run("greet", *arguments)
    assert result.exit_code == code
    assert expected in result.stderr


def test_a_file_with_something_else_than_a_section_is_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text("greet: 8000\n")
    result = run("greet", "--config", str(file), "--port", "3")
    assert (result.exit_code, "greet: must be a valid dictionary" in result.stderr) == (1, True)


@pytest.mark.parametrize("keys", ["hush-hush", "[{a: hush-hush}]", "{a: hush-hush}", "[[hush-hush]]"])
def test_secrets_are_never_repeated(run: Run, tmp_path: Path, keys: str) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text(f"greet:\n  keys: {keys}\n")
    for arguments in (["greet"], ["config", "--show"]):
        result = run(*arguments, "--config", str(file))
        assert result.exit_code == 1
        assert f"error: {file}:2: greet.keys" in result.stderr
        assert "hush" not in result.output
    file.write_text("greet:\n  keys: [hush-hush]\n")
    for form in ([], ["--json"]):
        shown = run("config", "--show", "--config", str(file), *form).stdout
        assert "**********" in shown
        assert "hush" not in shown


def test_config_shows_a_section_that_only_the_environment_sets(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_GREET__PORT", "9")
    shown = json.loads(run("config", "--show", "--json").stdout)
    assert shown["greet.port"] == {"value": 9, "origin": "QUIRE_GREET__PORT"}
    assert shown["greet.host"]["origin"] == "default"


def test_an_everyday_field_must_exist() -> None:
    with pytest.raises(ValueError, match="GreetSection has no field 'prot'"):
        section_options("greet", GreetSection, everyday=("prot",))
