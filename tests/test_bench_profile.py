"""`quire bench --profile` on the bundled model: every part is seen, and nothing stays wrapped."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch
from click.testing import CliRunner

from quire import SamplingParams
from quire.cli._frame import root_group
from quire.config import EngineConfig
from quire.contracts import ProfiledLayer
from quire.engine import profiling
from quire.engine.assembly import Engine, start_engine
from quire.engine.client import InProcessClient
from quire.engine.inputs import Prompt
from quire.executors.in_process import InProcessExecutor
from quire.layers import DecoderLayer, Step
from quire.ops import Kernels
from quire.plugins import discover
from quire.runtime.limits import Limits, measure_limits
from quire.runtime.worker import Worker

SETTINGS = {"max_num_seqs": 4, "max_model_len": 64, "kv_cache_memory_bytes": "8MiB"}


def small_limits(kernels: Kernels, dtype: torch.dtype) -> Limits:
    return measure_limits(kernels, dtype, buffer=1 << 12, size=16)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(profiling, "measure_limits", small_limits)
    return start_engine(
        EngineConfig(model="tiny", kernels="torch-cpu", attention_backend="torch", **SETTINGS),
        show_progress=False,
    )


def worker_of(engine: Engine) -> Worker:
    client = engine.client
    assert isinstance(client, InProcessClient)
    executor = client.core.executor
    assert isinstance(executor, InProcessExecutor)
    return executor.worker


def run(engine: Engine) -> profiling.ProfileReport:
    def prompts(first: int) -> list[Prompt]:
        return [{"prompt_token_ids": [first + row, 7, 8, 9]} for row in range(3)]

    params = [SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)] * 3
    return profiling.profile_steps(engine, (prompts(20), prompts(40)), params)


def test_every_part_of_a_step_is_seen_and_adds_up(engine: Engine) -> None:
    report = run(engine)
    assert report.decode is not None
    assert report.prefill is not None
    for steps, count, tokens in ((report.decode, 3, 3), (report.prefill, 1, 12)):
        assert (steps.steps, steps.tokens) == (count, tokens)
        kinds = {row.kind: row for row in steps.rows}
        assert kinds.keys() >= {"attention", "qkv_proj", "o_proj", "gate_up_proj", "down_proj", "logits"}
        assert kinds.keys() >= {"norm", "rotary", "activation", "embedding"}
        assert kinds.keys() >= {"scheduler", "batch building", "sampling", "results", "detokenizing"}
        assert sum(row.ms for row in steps.rows) == pytest.approx(steps.step_ms)
        outside = sum(row.ms for row in steps.rows if not row.kernel)
        assert outside == pytest.approx(steps.outside_ms)
        assert steps.outside_share == pytest.approx(outside / steps.step_ms)
        assert kinds["qkv_proj"].roofline is not None
        assert kinds["sampling"].roofline is None
    decode = {row.kind: row for row in report.decode.rows}
    assert decode["qkv_proj"].calls == len(worker_of(engine).model.layers)  # type: ignore[attr-defined]


def test_an_engine_is_as_it_was_afterwards(engine: Engine) -> None:
    worker = worker_of(engine)
    objects = [worker, worker.kernels, worker.sampler, worker.kv, worker.model, *worker.backends]
    before = [dict(vars(one)) for one in objects]
    run(engine)
    for one, old in zip(objects, before, strict=True):
        assert vars(one).keys() == old.keys()
    for module in worker.model.modules():  # type: ignore[attr-defined]
        assert "forward" not in vars(module)


class Unfused:
    """A fused layer that calls the layer's own operations and makes up where the time went."""

    def __init__(self, layer: DecoderLayer) -> None:
        self.layer = layer
        self.on: list[bool] = []

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros_like(x), x if residual is None else residual

    def profile(self, on: bool) -> None:
        self.on.append(on)

    def phases(self) -> Mapping[str, float]:
        return {"attention": 1e-9, "gate_up_proj+activation": 2e-9}


def test_a_fused_layer_tells_its_phases(engine: Engine) -> None:
    layers = [one for one in worker_of(engine).model.modules() if isinstance(one, DecoderLayer)]  # type: ignore[attr-defined]
    fused = [Unfused(layer) for layer in layers]
    assert all(isinstance(one, ProfiledLayer) for one in fused)
    for layer, one in zip(layers, fused, strict=True):
        layer.fused = one
    report = run(engine)
    assert report.decode is not None
    rows = {row.kind: row for row in report.decode.rows}
    assert rows["attention"].ms == pytest.approx(1e-6 * len(layers))
    joined = rows["gate_up_proj+activation"]
    assert joined.ms == pytest.approx(2e-6 * len(layers))
    assert joined.mbytes > 0
    assert "gate_up_proj" not in rows
    assert not rows["layer calls"].kernel
    assert all(one.on == [True, False] for one in fused)
    assert all(layer.fused is one for layer, one in zip(layers, fused, strict=True))


@pytest.mark.parametrize("spelling", [["--profile"], ["profile"]])
def test_the_command_in_both_spellings(monkeypatch: pytest.MonkeyPatch, spelling: list[str]) -> None:
    monkeypatch.setattr(profiling, "measure_limits", small_limits)
    flags = ["--num-prompts", "2", "--input-len", "4", "--output-len", "3", "--max-model-len", "64"]
    flags += ["--kv-cache-memory-bytes", "8MiB"]
    group = root_group(discover())
    table = CliRunner().invoke(group, ["bench", *spelling, *flags])
    assert table.exit_code == 0, table.output
    assert "outside kernels (*): " in table.stdout
    assert "tokens/s" in table.stdout
    data = json.loads(CliRunner().invoke(group, ["bench", *spelling, "tiny", *flags, "--json"]).stdout)
    assert {row["kind"] for row in data["decode"]["rows"]} >= {"attention", "logits"}
    assert data["decode"]["tokens_per_second"] > 0
