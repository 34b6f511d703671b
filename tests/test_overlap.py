"""Steps that overlap give what steps in a row give: a processor that plays a device which works by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from quire import LLM, RequestOutput, SamplingParams
from quire.plan import StepPlan
from quire.runtime import worker as worker_module
from quire.testing.model import Reference

from .played_device import PlayedDevice

PROMPTS = [list(range(2 + i, 2 + i + 5 * (i % 4 + 1))) for i in range(11)]
SHARED = [[*range(40, 75), 3 + i] for i in range(5)]


def play(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())


def said(outputs: Sequence[RequestOutput]) -> list[Any]:
    """All that a caller sees of results, times aside."""
    return [
        (
            output.prompt_token_ids,
            [
                (one.index, one.token_ids, one.text, one.finish_reason, one.stop_reason)
                for one in output.outputs
            ],
            [
                [
                    {token: (entry.logprob, entry.rank) for token, entry in position.items()}
                    for position in one.logprobs
                ]
                for one in output.outputs
                if one.logprobs is not None
            ],
            output.prompt_logprobs is not None and len(output.prompt_logprobs),
        )
        for output in outputs
    ]


CASES: dict[str, tuple[list[list[int]], dict[str, Any], dict[str, Any]]] = {
    "greedy": (PROMPTS, {"temperature": 0.0, "max_tokens": 9, "ignore_eos": True}, {}),
    "one token": (PROMPTS, {"temperature": 0.0, "max_tokens": 1}, {}),
    "seeded": (PROMPTS, {"temperature": 1.0, "seed": 5, "max_tokens": 12, "top_p": 0.9}, {}),
    "penalties": (
        PROMPTS,
        {
            "temperature": 0.7,
            "seed": 1,
            "max_tokens": 16,
            "repetition_penalty": 1.3,
            "frequency_penalty": 0.5,
        },
        {},
    ),
    "log probabilities": (
        PROMPTS,
        {"temperature": 0.0, "max_tokens": 6, "logprobs": 3, "prompt_logprobs": 2, "ignore_eos": True},
        {},
    ),
    # A request that ended unforeseen is in one step more, and its slot is given to another meanwhile.
    "a slot's next request: penalties": (
        PROMPTS,
        {"seed": 9, "max_tokens": 24, "stop_token_ids": list(range(0, 320, 5)), "presence_penalty": 2.0},
        {"max_num_seqs": 2},
    ),
    "a slot's next request: chunks": (
        [[*range(2, 40 + 7 * i)] for i in range(8)],
        {"seed": 9, "max_tokens": 24, "stop_token_ids": list(range(0, 320, 5))},
        {"max_num_seqs": 2, "max_num_batched_tokens": 16},
    ),
    "several completions": (PROMPTS, {"n": 3, "temperature": 1.0, "seed": 2, "max_tokens": 7}, {}),
    "stop ids": (
        PROMPTS,
        {"temperature": 1.0, "seed": 3, "max_tokens": 40, "stop_token_ids": list(range(0, 320, 9))},
        {},
    ),
    "stop strings": (
        PROMPTS,
        {"temperature": 1.0, "seed": 4, "max_tokens": 40, "stop": ["a", "e", "%", "1"]},
        {},
    ),
    "minimum": (PROMPTS, {"temperature": 1.0, "seed": 4, "max_tokens": 20, "min_tokens": 12}, {}),
    "chunks": (
        [[*range(2, 102)], [*range(5, 85)], [7] * 33],
        {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True},
        {"max_num_batched_tokens": 16},
    ),
    "prefixes": (SHARED, {"temperature": 0.0, "max_tokens": 6, "ignore_eos": True}, {}),
    "preemption": (
        PROMPTS,
        {"temperature": 1.0, "seed": 7, "max_tokens": 40, "ignore_eos": True},
        {"kv_cache_memory_bytes": "150KiB", "max_num_seqs": 6},
    ),
    "the context's end": (
        [[3] * 60, [4] * 50],
        {"temperature": 0.0, "max_tokens": 99, "ignore_eos": True},
        {"max_model_len": 64},
    ),
}


def test_a_step_begins_before_the_one_before_it_is_collected(
    checkpoint: Callable[[str], Reference], open_llm: Callable[..., LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch)
    llm = open_llm(checkpoint("llama"))
    executor = llm._engine.client.core.executor  # type: ignore[attr-defined]
    joints: list[str] = []

    def noting(name: str, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def noted(step: StepPlan | int) -> Any:
            joints.append(f"{name} {step.step_id if isinstance(step, StepPlan) else step}")
            return call(step)

        return noted

    for name in ("submit", "sample", "collect"):
        monkeypatch.setattr(executor, name, noting(name, getattr(executor, name)))
    llm.generate(
        [{"prompt_token_ids": [5, 6]}], SamplingParams(max_tokens=3, ignore_eos=True), use_tqdm=False
    )
    overlapped = "submit 0,sample 0,submit 1,collect 0,sample 1,submit 2,collect 1,sample 2"
    assert joints == f"{overlapped},submit 3,collect 2,sample 3,collect 3".split(",")


def test_nothing_is_held_in_the_end(
    checkpoint: Callable[[str], Reference], open_llm: Callable[..., LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops, aborts and steps in vain: all blocks and seats come back."""
    play(monkeypatch)
    llm = open_llm(checkpoint("llama"), max_num_seqs=3, enable_prefix_caching=False)
    params = SamplingParams(seed=3, max_tokens=30, stop_token_ids=list(range(0, 320, 7)), stop=["a", "5"])
    llm.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], params, use_tqdm=False)
    core = llm._engine.client.core  # type: ignore[attr-defined]
    while core.has_unfinished():
        core.step()
    stats = core.stats().scheduler
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert [pool.used for pool in stats.kv] == [0]


@pytest.mark.parametrize("case", CASES)
def test_overlapping_changes_no_result(
    case: str,
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts, given, settings = CASES[case]
    settings = {"max_num_seqs": 4, "max_model_len": 128} | settings
    params = SamplingParams(**given)
    asked: list[Any] = [{"prompt_token_ids": prompt} for prompt in prompts]
    model = checkpoint("llama")
    in_a_row = said(open_llm(model, **settings).generate(asked, params, use_tqdm=False))
    play(monkeypatch)
    overlapping = open_llm(model, **settings)
    assert said(overlapping.generate(asked, params, use_tqdm=False)) == in_a_row
    assert said(overlapping.generate(asked, params, use_tqdm=False)) == in_a_row  # from the cache, too
