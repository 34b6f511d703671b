"""A step that the device has no memory for is run in parts; what does not fit alone fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from quire import LLM, RequestOutput, SamplingParams
from quire.errors import CapacityError
from quire.executors import in_process
from quire.runtime import worker as worker_module
from quire.runtime.device import CpuDevice
from quire.runtime.shortage import out_of_memory
from quire.runtime.worker import Worker
from quire.testing.model import Reference

from .conftest import random_prompt
from .played_device import PlayedDevice

SMALL = [random_prompt(6 + i, seed=i) for i in range(5)]
LARGE = random_prompt(60, seed=9)
PARAMS = SamplingParams(max_tokens=8, temperature=1.0, seed=3, ignore_eos=True)


class Cramped:
    """Makes a callable run out of memory for more than `most` rows."""

    def __init__(self, call: Callable[..., Any], most: int) -> None:
        self.call, self.most, self.refused = call, most, 0

    def __call__(self, rows: torch.Tensor, *others: Any) -> Any:
        if rows.shape[0] > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {rows.shape[0]} GiB.")
        return self.call(rows, *others)


@pytest.fixture(params=[CpuDevice, PlayedDevice], ids=["in a row", "overlapped"])
def emptied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the allocator was told to give back what it keeps; on devices of both ways to run."""
    device, times = request.param(), []
    monkeypatch.setattr(device, "empty_cache", lambda: times.append(1))
    monkeypatch.setattr(worker_module, "open_device", lambda name: device)
    return times


def worker_of(llm: LLM) -> Worker:
    worker: Worker = llm._engine.client.core.executor.worker  # type: ignore[attr-defined]
    return worker


def run(llm: LLM, prompts: Sequence[list[int]]) -> list[RequestOutput]:
    return llm.generate([{"prompt_token_ids": one} for one in prompts], PARAMS, use_tqdm=False)


def said(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    assert [output.error for output in outputs] == [None] * len(outputs)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize(
    ("place", "most"), [("model.embed", 12), ("model.logits", 2), ("sampler.process", 1)]
)
def test_a_step_too_large_loses_nobody(
    place: str,
    most: int,
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    emptied: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm = open_llm(checkpoint("llama"), enable_prefix_caching=False)
    expected = said(run(llm, SMALL))
    owner, _, name = place.partition(".")
    of = getattr(worker_of(llm), owner)
    cramped = Cramped(getattr(of, name), most)
    monkeypatch.setattr(of, name, cramped)
    emptied.clear()
    assert said(run(llm, SMALL)) == expected
    assert cramped.refused > 0
    assert len(emptied) == cramped.refused


def test_a_request_too_large_fails_alone_and_says_what_to_change(
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    emptied: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm = open_llm(checkpoint("llama"), enable_prefix_caching=False, max_num_batched_tokens=200)
    expected = said(run(llm, SMALL))
    model = worker_of(llm).model
    cramped = Cramped(model.embed, 40)
    monkeypatch.setattr(model, "embed", cramped)
    *before, failed, last = run(llm, [*SMALL[:4], LARGE, SMALL[4]])
    assert said([*before, last]) == expected
    assert failed.error is not None
    for word in ("out of memory", "max_num_batched_tokens (200 now)", "gpu_memory_utilization", "60 GiB"):
        assert word in failed.error
    # It left no mark: a smaller one takes its place.
    assert said(run(llm, SMALL)) == expected


def test_halves_are_tried_before_single_requests(
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    emptied: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight requests of which four fit at a time: a step then costs three attempts and not nine."""
    llm = open_llm(checkpoint("llama"), enable_prefix_caching=False)
    model = worker_of(llm).model
    cramped = Cramped(model.embed, 4)
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    asked: list[Any] = [{"prompt_token_ids": [token]} for token in range(3, 11)]
    expected = said(llm.generate(asked, params, use_tqdm=False))
    monkeypatch.setattr(model, "embed", cramped)
    assert said(llm.generate(asked, params, use_tqdm=False)) == expected
    assert cramped.refused == 2  # once for each token


def test_what_the_host_says_counts_too() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize(
    ("name", "ways_out"),
    [
        ("Worker", ("the weights", "quantization")),
        ("profile", ("max_num_batched_tokens (64 now)", "max_num_seqs (8 now)")),
    ],
)
def test_a_start_without_memory_says_what_to_change(
    name: str,
    ways_out: tuple[str, ...],
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.")

    monkeypatch.setattr(in_process, name, refuse)
    with pytest.raises(CapacityError, match="Tried to allocate 3 GiB") as caught:
        open_llm(checkpoint("llama"), max_num_batched_tokens=64)
    for word in ways_out:
        assert word in str(caught.value)
