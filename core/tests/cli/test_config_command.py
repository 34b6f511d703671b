"""`quire config`: schema, check with lines, values with origins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from pydantic import BaseModel, ConfigDict

from quire.cli import _main
from quire.config import EngineConfig
from quire.contracts import CommandSpec
from quire.plugins import Found, PluginRegistry, discover

Run = Callable[..., Result]


class GreetSection(BaseModel):
    """A section that comes with a command."""

    model_config = ConfigDict(extra="forbid")
    greeting: str = "hello"


@pytest.fixture
def _with_section(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command named "greet" whose options model is the section of that name."""
    import sys
    from types import ModuleType

    module = ModuleType("greet_plugin")
    module.__dict__["GreetSection"] = GreetSection
    monkeypatch.setitem(sys.modules, "greet_plugin", module)
    spec = CommandSpec(name="greet", api=1, target="greet_plugin:cmd", options="greet_plugin:GreetSection")
    found = discover().found
    monkeypatch.setattr(
        _main, "discover", lambda allow: PluginRegistry([*found, Found("command", spec, "quire-greet", "1")])
    )


def test_the_schema_is_json(run: Run) -> None:
    schema = json.loads(run("config", "--schema").stdout)
    assert set(schema["properties"]) >= set(EngineConfig.model_fields)


@pytest.mark.usefixtures("_with_section")
def test_sections_of_installed_commands_are_known(run: Run, tmp_path: Path) -> None:
    assert "greet" in json.loads(run("config", "--schema").stdout)["properties"]
    file = tmp_path / "quire.yaml"
    file.write_text("seed: 1\ngreet:\n  greetin: hi\n")
    result = run("config", "--check", str(file))
    assert result.exit_code == 1
    assert result.stderr == f"error: {file}:3: greet.greetin: unknown option; did you mean 'greeting'?\n"
    file.write_text("greet:\n  greeting: hi\n")
    shown = json.loads(run("config", "--show", "--config", str(file), "--json").stdout)
    assert shown["greet.greeting"] == {"value": "hi", "origin": f"{file}:2"}


def test_check_names_lines_and_ignores_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_SEED", "not a number")
    file = tmp_path / "quire.yaml"
    file.write_text("model: tiny\nmax_num_seqs: 8\n")
    result = run("config", "--check", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file}: ok\n")
    file.write_text("model: tiny\n\nmax_num_seqs: no\nseeds: 1\n")
    result = run("config", "--check", str(file))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"error: {file}:3: max_num_seqs: must be a number, got False",
        f"error: {file}:4: seeds: unknown option; did you mean 'seed'?",
    ]


def test_show_prints_values_and_origins(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_PLUGINS_ALLOW", "quire")
    file = tmp_path / "quire.yaml"
    file.write_text("model: tiny\n")
    lines = [line.split() for line in run("config", "--show", "--config", str(file)).stdout.splitlines()]
    assert ["model", "tiny", f"{file}:1"] in lines
    assert ["plugins.allow", '["quire"]', "QUIRE_PLUGINS_ALLOW"] in lines
    assert ["max_num_batched_tokens", "2048", "default"] in lines
    values = json.loads(run("config", "--show", "--json").stdout)
    assert values["block_size"] == {"value": 16, "origin": "default"}


@pytest.mark.parametrize("arguments", [[], ["--schema", "--show"], ["--schema", "--json"]])
def test_exactly_one_thing_at_a_time(run: Run, arguments: list[str]) -> None:
    assert run("config", *arguments).exit_code == 2
