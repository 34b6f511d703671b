"""Forced tokens are appended where steps overlap, too, and are those of a device that is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quire import LLM, RequestOutput, SamplingParams, StructuredOutputsParams
from quire.engine.core import EngineCore
from quire.runtime import worker as worker_module
from quire.testing.drafting import always_draft

from .played_device import PlayedDevice
from .test_verification import assert_same

FORM = StructuredOutputsParams(
    json={
        "type": "object",
        "properties": {
            "the_first_of_the_names": {"enum": ["red", "green"]},
            "the_second_of_the_names": {"type": "boolean"},
            "and_a_third_for_good_measure": {"enum": ["a", "b"]},
        },
        "required": ["the_first_of_the_names", "the_second_of_the_names", "and_a_third_for_good_measure"],
        "additionalProperties": False,
    }
)
OpenLLM = Callable[..., LLM]


@pytest.fixture(params=["xgrammar", "llguidance"])
def open_tiny(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenLLM]:
    """Opens the bundled model with one of the backends, on one of the devices."""
    opened: list[LLM] = []

    def open_one(overlapping: bool, **changes: Any) -> LLM:
        settings = {"backend": request.param, "compile_timeout": 20}  # other tests may keep the machine busy
        with monkeypatch.context() as patch:
            if overlapping:
                patch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
            opened.append(
                LLM("tiny", show_progress=False, dtype="float32", structured_outputs=settings, **changes)
            )
        return opened[-1]

    yield open_one
    for llm in opened:
        llm.shutdown()


def core_of(llm: LLM) -> EngineCore:
    core = llm._engine.client.core  # type: ignore[attr-defined]
    assert isinstance(core, EngineCore)
    return core


def watch(owner: object, name: str, found: list[Any], patch: pytest.MonkeyPatch) -> None:
    """Collect arguments and results of a method's calls."""
    method = getattr(owner, name)

    def watched(*arguments: Any, **more: Any) -> Any:
        result = method(*arguments, **more)
        found.append((arguments, result))
        return result

    patch.setattr(owner, name, watched)


def test_of_each_run_one_token_is_drawn_and_no_more(
    open_tiny: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that a step under way draws when it becomes known that it is forced."""
    asked = SamplingParams(seed=3, max_tokens=200, temperature=1.0, structured_outputs=FORM)
    found = {}
    for overlapping in (False, True):
        llm = open_tiny(overlapping)
        core, appended, told = core_of(llm), list[Any](), list[Any]()
        watch(core.scheduler, "append", appended, monkeypatch)
        watch(core.executor.worker.sampler, "commit", told, monkeypatch)  # type: ignore[attr-defined]
        (output,) = llm.generate(["def main():\n"], asked, use_tqdm=False)
        tokens, stats = output.outputs[0].token_ids, core.stats()
        committed = [token for (_, ids, _), _ in told for token in ids]
        assert committed == tokens[: len(committed)], "in order, each of them once"
        found[overlapping] = (tokens, stats.scheduler.num_forced_tokens, stats.steps)
        runs = [len(output.token_ids) for _, output in appended if output is not None]
        if not overlapping:
            alone = runs
    assert found[True][0] == found[False][0]
    assert runs == alone
    assert found[False][1] == sum(runs)
    assert found[True][1] == sum(runs) - len(runs)
    assert found[True][2] <= found[False][2] + len(runs) + 1


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunked": {"max_num_batched_tokens": 12, "max_num_seqs": 10},
    "cached": {"enable_prefix_caching": True},
    "preempted": {"kv_cache_memory_bytes": "1MiB", "enable_prefix_caching": False},
    "drafts": {
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}
    },
}
EVERY: list[dict[str, Any]] = [
    {"seed": 3, "n": 3},
    {"seed": 4, "logprobs": 1},
    {"seed": 5, "repetition_penalty": 1.2, "presence_penalty": 0.5},
    {"temperature": 0.0, "prompt_logprobs": 1},
    {"seed": 6, "stop": ["second_of"]},
    *({"seed": 7 + length, "max_tokens": length} for length in (5, 6, 7, 8)),
    {"seed": 8, "structured_outputs": None},
]


def say_all(llm: LLM) -> list[RequestOutput]:
    common: dict[str, Any] = {"temperature": 1.0, "max_tokens": 90, "structured_outputs": FORM}
    params = [SamplingParams(**common | one) for one in EVERY]
    return llm.generate(["def main():\n"] * len(params), params, use_tqdm=False)


@pytest.mark.parametrize("open_tiny", ["llguidance"], indirect=True)  # it leaves no choice of spelling
def test_tokens_are_those_of_a_device_that_is_waited_for(open_tiny: OpenLLM) -> None:
    plain = say_all(open_tiny(False))
    for way, changes in WAYS.items():
        llm = open_tiny(True, **changes)
        scheduler = core_of(llm).scheduler
        if way == "drafts":
            always_draft(scheduler, 3, lambda sequence: sequence.slot % 2 == 1)
        found = say_all(llm)
        assert_same(found, plain)
        for mine, theirs in zip(found, plain, strict=True):
            for one, other in zip(mine.outputs, theirs.outputs, strict=True):
                assert (one.text, one.finish_reason, one.stop_reason) == (
                    other.text,
                    other.finish_reason,
                    other.stop_reason,
                )
        stats = scheduler.stats()
        assert stats.num_forced_tokens > 0
        assert (stats.num_preemptions > 0) == (way == "preempted")
        assert (stats.drafts.num_draft_tokens > 0) == (way == "drafts")
        assert [pool.used for pool in stats.kv] == [0]
