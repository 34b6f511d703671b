"""Captured decode steps give what uncaptured ones give: a processor that plays a device with graphs.

What it "captures" is the work itself, done again at every replay: it sees only what was put where the
captured step's inputs lay.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from quire import LLM, SamplingParams
from quire.config import EngineConfig
from quire.contracts import AttentionBatch, GraphSupport
from quire.engine import forecast as forecast_module
from quire.engine.forecast import forecast
from quire.runtime import worker as worker_module
from quire.runtime.device import Memory
from quire.runtime.graphs import graph_sizes
from quire.testing.model import Reference
from quire_attn_torch.backend import TorchAttention

from .played_device import PlayedDevice

PROMPTS = [list(range(2 + i, 2 + i + 5 * (i % 4 + 1))) for i in range(11)]


@dataclass(slots=True)
class PlayedGraph:
    work: Callable[[], None]
    replays: list[int]
    number: int

    def replay(self) -> None:
        self.replays.append(self.number)
        self.work()


class CapturingDevice(PlayedDevice):
    """One that captures, too."""

    captures = True

    def __init__(self) -> None:
        super().__init__()
        self.captured = 0
        self.replays: list[int] = []

    def capture(self, work: Callable[[], None]) -> PlayedGraph:
        work()
        self.captured += 1
        return PlayedGraph(work, self.replays, self.captured - 1)


class Held:
    """Metadata whose content is exchanged in place, as a captured step's is."""

    def __init__(self, content: Any) -> None:
        self.content = content


class CapturedAttention(TorchAttention):
    """The reference's attention with metadata that a graph can keep."""

    graph_support = GraphSupport.DECODE

    def plan(self, batch: AttentionBatch) -> Any:
        return Held(super().plan(batch))

    def forward(self, *arguments: Any) -> torch.Tensor:
        q, k, v, kv, metadata, *rest = arguments
        return super().forward(q, k, v, kv, metadata.content, *rest)

    def begin_replay(self, metadata: Held, batch: AttentionBatch) -> None:
        metadata.content = super().plan(batch)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CapturingDevice:
    played = CapturingDevice()
    monkeypatch.setattr(worker_module, "open_device", lambda name: played)
    monkeypatch.setattr("quire_attn_torch.backend.TorchAttention", CapturedAttention)
    return played


def tokens(llm: LLM, **params: Any) -> list[list[int]]:
    asked: list[Any] = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    outputs = llm.generate(asked, SamplingParams(**params), use_tqdm=False)
    return [list(one.token_ids) for output in outputs for one in output.outputs]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0, "max_tokens": 11, "ignore_eos": True},
        {"seed": 3, "max_tokens": 24, "stop_token_ids": list(range(0, 320, 9)), "presence_penalty": 1.0},
        {"seed": 3, "max_tokens": 9, "n": 2, "logprobs": 2},
    ],
)
def test_captured_steps_change_no_token(
    params: dict[str, Any],
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
) -> None:
    model = checkpoint("llama")
    settings: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 8}
    eager = tokens(open_llm(model, enforce_eager=True, **settings), **params)
    assert (device.captured, device.replays) == (0, [])
    captured = open_llm(model, **settings)
    assert device.captured == len(graph_sizes(8))
    assert tokens(captured, **params) == eager
    assert len(set(device.replays)) > 1  # several sizes


def test_only_decode_steps_are_replayed(
    checkpoint: Callable[[str], Reference], open_llm: Callable[..., LLM], device: CapturingDevice
) -> None:
    settings: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 2}
    llm = open_llm(checkpoint("llama"), max_num_batched_tokens=16, **settings)

    def replayed(prompt: list[int], **params: Any) -> int:
        device.replays.clear()
        asked: list[Any] = [{"prompt_token_ids": prompt}]
        llm.generate(asked, SamplingParams(ignore_eos=True, **params), use_tqdm=False)
        return len(device.replays)

    assert replayed([5, 6, 7], max_tokens=1) == 0
    assert replayed([5, 6, 7], max_tokens=4) == 3  # the first token comes from the prompt's step
    assert replayed([8] * 17, max_tokens=1) == 1  # of which the last chunk is one token
    assert replayed([9] * 17, max_tokens=1, prompt_logprobs=1) == 0  # all rows are needed


def test_the_report_names_what_was_captured(
    checkpoint: Callable[[str], Reference], open_llm: Callable[..., LLM], device: CapturingDevice
) -> None:
    llm = open_llm(checkpoint("llama"), attention_backend="torch", kernels="reference", max_num_seqs=20)
    report = "\n".join(llm._engine.report.lines())
    assert "graphs    6 of decode steps, of 1 to 20 requests" in report
    assert "graphs 0." in report.splitlines()[-1]


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
    each, total = 40 * 2**20, 2**30
    monkeypatch.setattr(device, "memory", lambda: Memory(total=total, free=total - device.captured * each))
    llm = open_llm(checkpoint("llama"), attention_backend="torch", kernels="reference", max_num_seqs=4)
    report = llm._engine.report
    budget = report.memory
    assert budget.graphs == 3 * each
    assert budget.left == total - budget.activations - budget.kv - budget.graphs
    assert 0 < report.graphs_set_aside < each
    text = "\n".join(report.lines())
    assert "graphs 120.0 MiB, KV cache" in text
    assert "they hold 120.0 MiB, more than the" in text
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


@pytest.mark.parametrize("most", [1, 2, 3, 8, 9, 64, 200, 256, 1000])
def test_sizes_ascend_to_the_most(most: int) -> None:
    sizes = graph_sizes(most)
    assert sizes[-1] == most
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) < 32
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))
