"""Graphs and memory: what they hold is in the budget; where they get none, steps run without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quire import LLM, SamplingParams
from quire.config import EngineConfig
from quire.engine.planning import forecast as forecast_module
from quire.engine.planning.forecast import forecast
from quire.engine.units import size
from quire.runtime import worker as worker_module
from quire.runtime.device import Memory
from quire.testing.model import Reference

from .played_device import CapturingDevice, PlayedGraph, play_graphs

PROMPTS = [list(range(2 + i, 2 + i + 5 * (i % 4 + 1))) for i in range(11)]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CapturingDevice:
    return play_graphs(monkeypatch)


def tokens(llm: LLM, **params: Any) -> list[list[int]]:
    asked: list[Any] = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    outputs = llm.generate(asked, SamplingParams(**params), use_tqdm=False)
    assert [output.error for output in outputs] == [None] * len(outputs)
    return [list(one.token_ids) for output in outputs for one in output.outputs]


def test_a_captured_step_without_memory_runs_uncaptured_in_parts(
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its parts are all sampled after the last of them has run, so they must not share a graph's results."""
    settings: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 8}
    llm = open_llm(checkpoint("llama"), **settings)
    params: dict[str, Any] = {"seed": 3, "max_tokens": 9, "temperature": 1.0, "ignore_eos": True}
    expected = tokens(llm, **params)
    refused = 0

    def refuse(graph: PlayedGraph) -> None:
        nonlocal refused
        refused += 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(PlayedGraph, "replay", refuse)
    assert tokens(llm, **params) == expected
    assert refused > 0


class Full(CapturingDevice):
    """Has memory for the first graphs only."""

    emptied = 0

    def capture(self, work: Callable[[], None]) -> Any:
        if self.captured == 2:
            raise RuntimeError("CUDA error: out of memory")  # the driver's way to say so
        return super().capture(work)

    def empty_cache(self) -> None:
        self.emptied += 1


def test_where_capturing_has_no_memory_steps_run_uncaptured_and_the_report_says_so(
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 8}
    params: dict[str, Any] = {"temperature": 0.0, "max_tokens": 5, "ignore_eos": True}
    expected = tokens(open_llm(checkpoint("llama"), **settings), **params)
    full = Full()
    monkeypatch.setattr(worker_module, "open_device", lambda name: full)
    llm = open_llm(checkpoint("llama"), **settings)
    assert full.emptied == 2  # after the profile run, and after capturing
    (line,) = (line for line in llm._engine.report.lines() if line.startswith("graphs"))
    for words in ("none: out of memory", "gpu_memory_utilization", "enforce_eager", "CUDA error"):
        assert words in line
    assert tokens(llm, **params) == expected
    assert full.replays == []


def test_what_is_wrong_with_capturing_itself_is_raised(
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(work: Callable[[], None]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(device, "capture", refuse)
    with pytest.raises(RuntimeError, match="not permitted"):
        open_llm(checkpoint("llama"), attention_backend="torch", kernels="reference")


def test_what_graphs_are_found_to_hold_is_in_the_budget(
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each takes 40 MiB, far more than was set aside for so small a model."""
    each, total = 40 * 2**20, 4 * 2**30
    monkeypatch.setattr(device, "memory", lambda: Memory(total=total, free=total - device.captured * each))
    llm = open_llm(checkpoint("llama"), attention_backend="torch", kernels="reference", max_num_seqs=4)
    report = llm._engine.report
    budget = report.memory
    assert budget.graphs == device.captured * each > 0
    assert budget.left == total - budget.activations - budget.kv - budget.graphs
    assert 0 < report.graphs_set_aside < each
    text = "\n".join(report.lines())
    assert f"graphs {size(budget.graphs)}, KV cache" in text
    assert f"they hold {size(budget.graphs)}, more than the" in text
    # A forecast counts on the same.
    monkeypatch.setattr(forecast_module, "open_device", lambda name: device)
    config = EngineConfig(
        model=str(checkpoint("llama").directory),
        attention_backend="torch",
        kernels="reference",
        max_num_seqs=4,
    )
    for eager in (False, True):
        told = forecast(config.model_copy(update={"enforce_eager": eager, "dtype": "float32"})).profile.graphs
        assert told == (0 if eager else pytest.approx(report.graphs_set_aside, rel=0.5))
