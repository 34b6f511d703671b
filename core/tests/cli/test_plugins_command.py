"""`quire plugins` and `quire doctor`: tables, JSON, and what cannot be used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import Result

from quire.cli import _main
from quire.config import EngineConfig
from quire.contracts import SamplerSpec
from quire.plugins import Found, PluginRegistry, Skipped, discover

Run = Callable[..., Result]


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plugin of the core's own commands, one unusable sampler, one skipped distribution."""
    commands = [found for found in discover().found if found.kind == "command"]
    sampler = SamplerSpec(name="odd", api=7, target="odd:Sampler", summary="Odd [sampler]")
    registry = PluginRegistry(
        [*commands, Found("sampler", sampler, "quire-odd", "2.0", "implements api 7")],
        [Skipped("quire-broken", "0.1", "is broken: ImportError: no")],
    )
    monkeypatch.setattr(_main, "discover", lambda allow: registry)


@pytest.mark.usefixtures("_registry")
def test_the_table_has_a_row_per_plugin_and_says_what_is_wrong(run: Run) -> None:
    lines = run("plugins").stdout.splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert "sampler odd quire-odd 2.0 implements api 7 Odd [sampler]" in rows
    assert "- - quire-broken 0.1 is broken: ImportError: no" in rows
    assert any(row.startswith("command bench latency quire ") for row in rows)


@pytest.mark.usefixtures("_registry")
def test_json_has_everything(run: Run) -> None:
    data = json.loads(run("plugins", "--json").stdout)
    assert data["skipped"] == [
        {
            "distribution": "quire-broken",
            "version": "0.1",
            "reason": "is broken: ImportError: no",
            "by_allowlist": False,
        }
    ]
    (sampler,) = [one for one in data["plugins"] if one["kind"] == "sampler"]
    assert sampler == {
        "kind": "sampler",
        "name": "odd",
        "distribution": "quire-odd",
        "version": "2.0",
        "status": "implements api 7",
        "summary": "Odd [sampler]",
        "api": 7,
        "priority": 0,
        "target": "odd:Sampler",
    }


@pytest.mark.parametrize("way", ["environment", "file", "flag"])
def test_the_allowlist_reaches_discovery(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    seen: list[Any] = []

    def spy(allow: Any) -> PluginRegistry:
        seen.append(allow)
        return discover(allow)

    monkeypatch.setattr(_main, "discover", spy)
    file = tmp_path / "quire.yaml"
    file.write_text("plugins: {allow: [a, b]}\n")
    match way:
        case "environment":
            monkeypatch.setenv("QUIRE_PLUGINS_ALLOW", "a,b")
            result = run("plugins")
        case "file":
            result = run("plugins", f"--config={file}")
        case _:
            monkeypatch.setenv("QUIRE_PLUGINS_ALLOW", "c")
            result = run("doctor", "--plugins-allow", "a,b", "--help")
    assert result.exit_code == 0
    assert seen == [["a", "b"]]


@dataclass
class FakeChoice:
    kind: str = "kernels"
    need: str = "float32 on cpu"
    chosen: str | None = None
    reason: str = "nothing serves it"
    rejected: list[tuple[str, str]] = field(default_factory=lambda: [("quire:x", "runs on cuda, not on cpu")])


@dataclass
class FakeDoctorReport:
    problems: list[str]
    sections: list[tuple[str, list[tuple[str, str]]]] = field(
        default_factory=lambda: [("Machine", [("cpu", "2"), ("memory", "8 GiB")])]
    )
    choices: list[FakeChoice] = field(default_factory=lambda: [FakeChoice()])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[EngineConfig]:
    """Stands in for the examination of the machine; a model named "bad" has a problem."""
    configs: list[EngineConfig] = []

    def examine(config: EngineConfig) -> FakeDoctorReport:
        configs.append(config)
        return FakeDoctorReport(["No such model."] if config.model == "bad" else [])

    module = ModuleType("quire.engine.doctor")
    module.__dict__["examine"] = examine
    monkeypatch.setitem(sys.modules, "quire.engine.doctor", module)
    return configs


def test_the_doctor_prints_what_was_found(run: Run, examined: list[EngineConfig]) -> None:
    result = run("doctor", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "Machine",
        "  cpu     2",
        "  memory  8 GiB",
        "kernels",
        "  need      float32 on cpu",
        "  chosen    nothing (nothing serves it)",
        "  rejected  quire:x: runs on cuda, not on cpu",
    ]
    assert (examined[0].model, examined[0].device) == ("", "cpu")


def test_problems_are_printed_and_are_the_exit_code(run: Run, examined: list[EngineConfig]) -> None:
    result = run("doctor", "bad")
    assert result.exit_code == 1
    assert result.stdout.endswith("Problems\n  No such model.\n")
    as_json = run("doctor", "bad", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["problems"] == ["No such model."]
