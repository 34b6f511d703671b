"""One request's failure is that request's: exceptions at every hook, NaN logits, aborts at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from quire import LLM, RequestOutput, SamplingParams
from quire.engine.client import InProcessClient
from quire.runtime.worker import Worker
from quire.testing.model import Reference

from .conftest import random_prompt

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]
PARAMS = SamplingParams(max_tokens=8, temperature=1.0, seed=3, ignore_eos=True)
VICTIM = 2
MARK = 199  # a token that only the victim's prompt holds


@pytest.fixture
def llm(checkpoint: Checkpoint, open_llm: OpenLLM) -> LLM:
    return open_llm(checkpoint("llama"), enable_prefix_caching=False)


def worker_of(llm: LLM) -> Worker:
    client = llm._engine.client
    assert isinstance(client, InProcessClient)
    return client.core.executor.worker  # type: ignore[attr-defined, no-any-return]


def prompts() -> list[list[int]]:
    ids = [[token if token != MARK else 3 for token in random_prompt(6 + i, seed=i)] for i in range(5)]
    ids[VICTIM][0] = MARK
    return ids


def run(llm: LLM) -> list[RequestOutput]:
    return llm.generate(prompts(), PARAMS, use_tqdm=False)


@contextmanager
def replaced(
    owner: object, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, wrapper(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def victim_slot(worker: Worker) -> int | None:
    seated = [slot for slot in worker.slots.info if worker.slots.token_ids[slot, 0] == MARK]
    return seated[0] if seated else None


def raising(
    worker: Worker, involves: Callable[..., bool]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wraps a hook so that it raises whenever the victim is involved."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if involves(*args, **kwargs):
                raise RuntimeError("the hook is broken")
            return original(*args, **kwargs)

        return call

    return wrap


def rows_hold_victim(worker: Worker) -> Callable[..., bool]:
    return lambda *args: victim_slot(worker) in list(args[1].slots)


HOOKS: dict[str, Callable[[Worker], tuple[object, str, Callable[..., bool]]]] = {
    "sampler.add": lambda w: (w.sampler, "add", lambda slot, params, seed, prompt, out: MARK in prompt),
    "sampler.process": lambda w: (w.sampler, "process", rows_hold_victim(w)),
    "sampler.draw": lambda w: (w.sampler, "draw", rows_hold_victim(w)),
    "sampler.commit": lambda w: (w.sampler, "commit", lambda slots, ids, counts: victim_slot(w) in slots),
    "model.embed": lambda w: (w.model, "embed", lambda ids: MARK in ids.tolist()),
    "attention.plan": lambda w: (
        w.backends[0],
        "plan",
        # The victim is the only one whose sequence has this length at its first step.
        lambda batch: len(prompts()[VICTIM]) in batch.seq_lens_host and batch.max_query_len > 1,
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_in_one_request_ends_that_request_only(llm: LLM, hook: str) -> None:
    expected = run(llm)
    worker = worker_of(llm)
    owner, name, involves = HOOKS[hook](worker)
    with replaced(owner, name, raising(worker, involves)):
        outputs = run(llm)
    for index, (before, after) in enumerate(zip(expected, outputs, strict=True)):
        if index == VICTIM:
            assert after.outputs[0].finish_reason == "error"
            assert after.error is not None
            assert "the hook is broken" in after.error
        else:
            assert after.error is None
            assert after.outputs[0].token_ids == before.outputs[0].token_ids
    assert_clean(llm)
    assert [o.outputs[0].token_ids for o in run(llm)] == [o.outputs[0].token_ids for o in expected]


def test_a_failing_remove_leaves_the_engine_running(llm: LLM) -> None:
    expected = run(llm)
    worker = worker_of(llm)
    with replaced(worker.sampler, "remove", raising(worker, lambda slot: slot == 1)):
        assert [o.outputs[0].token_ids for o in run(llm)] == [o.outputs[0].token_ids for o in expected]
        assert_clean(llm)


def test_nan_logits_end_their_row_only_and_their_blocks_poison_nobody(
    checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    """NaN in the victim's embedding goes through its K and V into blocks that others get next."""
    llm = open_llm(checkpoint("llama"), enable_prefix_caching=False, kv_cache_memory_bytes="64KiB")
    expected = run(llm)
    worker = worker_of(llm)

    def poison(original: Callable[..., Any]) -> Callable[..., Any]:
        def embed(ids: torch.Tensor) -> Any:
            x = original(ids)
            return torch.where((ids == MARK).unsqueeze(-1), torch.nan, x)

        return embed

    with replaced(worker.model, "embed", poison):
        outputs = run(llm)
    assert outputs[VICTIM].outputs[0].finish_reason == "error"
    assert "NaN" in (outputs[VICTIM].error or "")
    for index in set(range(5)) - {VICTIM}:
        assert outputs[index].outputs[0].token_ids == expected[index].outputs[0].token_ids
    # Everybody's blocks come from where the victim's were; the pool is small enough to use all of it.
    for _ in range(3):
        again = run(llm)
        assert [o.outputs[0].token_ids for o in again] == [o.outputs[0].token_ids for o in expected]


def test_all_completions_of_a_failed_request_end(llm: LLM) -> None:
    worker = worker_of(llm)
    owner, name, involves = HOOKS["sampler.process"](worker)
    params = SamplingParams(max_tokens=4, n=3, seed=1, ignore_eos=True)
    with replaced(owner, name, raising(worker, involves)):
        outputs = llm.generate(prompts(), params, use_tqdm=False)
    assert {one.finish_reason for one in outputs[VICTIM].outputs} == {"error"}
    assert {one.finish_reason for o in outputs if o.error is None for one in o.outputs} == {"length"}
    assert_clean(llm)


def test_a_failing_detokenizer_ends_its_request_only(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.text.detokenizer import IncrementalDetokenizer

    original = IncrementalDetokenizer.append
    seen: list[IncrementalDetokenizer] = []

    def append(self: IncrementalDetokenizer, ids: Any) -> str:
        if not seen:
            seen.append(self)
        if self is seen[0]:
            raise RuntimeError("no such glyph")
        return original(self, ids)

    monkeypatch.setattr(IncrementalDetokenizer, "append", append)
    outputs = run(llm)
    assert [o.error for o in outputs].count(None) == len(outputs) - 1
    assert sum("no such glyph" in (o.error or "") for o in outputs) == 1
    assert_clean(llm)


def test_an_engine_failure_reaches_the_caller_and_leaves_no_request(llm: LLM) -> None:
    worker = worker_of(llm)
    with (
        replaced(worker, "collect", lambda original: lambda step_id, legal=None: 1 / 0),
        pytest.raises(ZeroDivisionError),
    ):
        run(llm)
    stats = llm.get_metrics()
    assert (stats.num_running, stats.num_waiting) == (0, 0)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_abort_at_any_moment_frees_everything(llm: LLM, steps: int) -> None:
    long = SamplingParams(max_tokens=100, ignore_eos=True, n=2)
    streams = [llm.stream(prompt, long) for prompt in prompts()]
    for stream in streams:
        for _ in range(steps):
            next(stream)
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    assert_clean(llm)
    assert len(run(llm)) == 5


def assert_clean(llm: LLM) -> None:
    stats = llm.get_metrics()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    for group in stats.kv:
        assert group.used == 0
        assert group.free + group.cached == group.total
