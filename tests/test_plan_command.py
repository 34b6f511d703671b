"""`quire plan`: what it tells is what a start finds, and nothing is loaded for it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from quire.cli._main import main
from quire.config import EngineConfig
from quire.contracts import ModelFiles, ModelRequest
from quire.engine.planning.forecast import Forecast, forecast
from quire.engine.planning.plan import make_plan
from quire.executors.in_process import InProcessExecutor
from quire.weights.sources.hub import HubSource


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QUIRE_")]:
        monkeypatch.delenv(name)


def plan(*arguments: str) -> Result:
    """Run `quire plan` in this process."""
    import click

    @click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    @click.pass_context
    def frame(ctx: click.Context) -> None:
        ctx.exit(main(["plan", *ctx.args]))

    return CliRunner().invoke(frame, ["--", *arguments])


def as_json(*arguments: str) -> dict[str, Any]:
    result = plan(*arguments, "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if found["fits"] else 1)
    return found


def tiny(**settings: Any) -> Forecast:
    memory = settings.pop("memory", None)
    return forecast(EngineConfig(model="tiny", **settings), memory=memory)


def test_it_tells_what_a_start_measures() -> None:
    config = EngineConfig(model="tiny", max_num_batched_tokens=256, max_num_seqs=4)
    told = forecast(config).profile
    measured = InProcessExecutor(make_plan(config).worker_config(show_progress=False)).profile()
    assert told.weights == pytest.approx(measured.weights, rel=0.02)
    assert told.activations == pytest.approx(measured.activations, rel=0.25)
    assert told.kv_bytes_per_block == measured.kv_bytes_per_block


def test_sampling_is_what_counts_for_many_seats_and_few_tokens() -> None:
    settings: dict[str, Any] = {"model": "tiny", "max_num_batched_tokens": 128, "max_num_seqs": 128}
    config = EngineConfig(kernels="torch-cpu", **settings)
    measured = InProcessExecutor(make_plan(config).worker_config(show_progress=False)).profile()
    assert forecast(config).profile.activations == pytest.approx(measured.activations, rel=0.25)
    # Kernels that sample without copies hold less than the estimate, never more.
    config = EngineConfig(**settings)
    measured = InProcessExecutor(make_plan(config).worker_config(show_progress=False)).profile()
    assert forecast(config).profile.activations >= measured.activations


def test_the_longest_that_fits_fits_and_one_more_does_not() -> None:
    told = tiny(memory=27 * 2**20)
    assert 0 < told.largest < 2048
    assert tiny(memory=27 * 2**20, max_model_len=told.largest).problem is None
    worse = tiny(memory=27 * 2**20, max_model_len=told.largest + 1)
    assert worse.problem is not None
    assert f"largest max_model_len that works is {told.largest}" in worse.problem
    assert worse.largest == told.largest


def test_json_has_the_figures_the_plugins_and_the_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_MAX_NUM_SEQS", "8")
    found = as_json("tiny", "--memory", "1GiB", "--max-model-len", "1024")
    assert found["memory"]["total_bytes"] == 2**30
    # 4 layers of 2 KV heads of 64 in bfloat16, for keys and values.
    assert found["memory"]["kv_bytes_per_token"] == 4 * 2 * 64 * 2 * 2
    assert found["concurrency"] == found["kv_tokens"] / 1024
    assert {one["role"] for one in found["plugins"]} == {
        *("model", "quantization", "kernels", "sampler", "attention/0"),
        *("grammar/0", "grammar/1", "tool_parser", "reasoning_parser"),
    }
    assert found["settings"] == {
        "max_model_len": {"value": 1024, "origin": "command line"},
        "max_num_seqs": {"value": 8, "origin": "QUIRE_MAX_NUM_SEQS"},
        "model": {"value": "tiny", "origin": "command line"},
    }
    assert found["model"]["on_this_machine"] is True


def test_what_does_not_fit_is_said_and_fails() -> None:
    result = plan("tiny", "--memory", "12MiB")
    assert result.exit_code == 1
    assert "none fits" in result.stdout
    assert "error: max_model_len 2048 needs" in result.stderr


def test_a_directory_is_planned_from_its_headers_alone(tmp_path: Path) -> None:
    source = make_plan(EngineConfig(model="tiny")).files
    for name in ("config.json", "generation_config.json"):
        if (source.directory / name).exists():
            shutil.copy(source.directory / name, tmp_path)
    original = source.weights[0].read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(original[:header])
        file.truncate(len(original))  # no tensor is left in it, only their place
    text = plan(str(tmp_path)).stdout
    assert "4.2 M" in text
    assert f"{tmp_path} (directory)" in text
    # Where the values come from: a file counts line by line.
    config = tmp_path / "quire.yaml"
    config.write_text(f"model: {tmp_path}\nblock_size: 32\n")
    assert (
        f"block_size  32{' ' * (len(str(tmp_path)) - 2)}  {config}:2" in plan("--config", str(config)).stdout
    )


def test_what_would_be_fetched_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_plan(EngineConfig(model="tiny")).files

    def describe(self: HubSource, request: ModelRequest, directory: Path) -> ModelFiles:
        for name in ("config.json", "model.safetensors"):
            shutil.copy(source.directory / name, directory)
        weights = (directory / "model.safetensors",)
        return ModelFiles(model=request.model, directory=directory, source="hub", weights=weights)

    monkeypatch.setattr(HubSource, "resolve_headers", describe)
    text = plan("org/model", "--memory", "1GiB").stdout
    assert "org/model (hub, 8.0 MiB of weights not fetched yet)" in text
    found = as_json("org/model", "--memory", "1GiB")["model"]
    assert (found["on_this_machine"], found["checkpoint_bytes"]) == (False, 8393216)


@pytest.mark.parametrize(("memory", "reason"), [("lots", "must be a number of bytes"), ("0", "more than 0")])
def test_memory_must_be_bytes(memory: str, reason: str) -> None:
    result = plan("tiny", "--memory", memory)
    assert (result.exit_code, reason in result.stderr) == (2, True)
