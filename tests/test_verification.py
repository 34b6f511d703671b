"""Drafts and appended tokens change no token, whatever is proposed: right, wrong, or by halves (T39)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire import LLM, RequestOutput, SamplingParams
from quire.contracts import Speculator
from quire.runtime import worker as worker_module
from quire.scheduler import Scheduler
from quire.testing.drafting import always_draft
from quire.testing.model import Reference

from .conftest import VOCAB, random_prompt
from .played_device import PlayedDevice

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]

NEW = 24
PROMPTS = [random_prompt(length, seed=length) for length in (1, 15, 16, 33, 40)]
KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0, "logprobs": 2},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.8, "seed": 6, "top_p": 0.9, "min_p": 0.01, "frequency_penalty": 0.7, "logprobs": 0},
    {"temperature": 1.0, "seed": 7, "n": 3, "repetition_penalty": 1.3, "logit_bias": {30: 2.0}},
    {"temperature": 0.0, "bad_words": ["a", "bc"], "min_tokens": 5, "prompt_logprobs": 1},
]


class Oracle(Speculator):
    """Knows how requests go on, and is wrong at some positions."""

    def __init__(self, outputs: Sequence[RequestOutput], wrong: Callable[[int], bool]) -> None:
        self._known = [
            output.prompt_token_ids + list(completion.token_ids)
            for output in outputs
            for completion in output.outputs
        ]
        self._wrong = wrong
        self.asked = 0

    def remove(self, slot: int) -> None:
        pass

    def propose(
        self, slots: Sequence[int], counts: Sequence[int], contexts: Sequence[NDArray[np.int32]]
    ) -> list[list[int]]:
        self.asked += len(slots)
        return [self._follow(context.tolist(), k) for context, k in zip(contexts, counts, strict=True)]

    def _follow(self, context: list[int], k: int) -> list[int]:
        length = len(context)
        for known in self._known:
            if known[:length] == context:
                return [
                    (token + self._wrong(length + i)) % VOCAB
                    for i, token in enumerate(known[length : length + k])
                ]
        raise AssertionError("no request has this context: its tokens have changed")


class Broken(Oracle):
    """Fails whenever it can."""

    def remove(self, slot: int) -> None:
        raise RuntimeError("out of order")

    def propose(
        self, slots: Sequence[int], counts: Sequence[int], contexts: Sequence[NDArray[np.int32]]
    ) -> list[list[int]]:
        raise RuntimeError("out of ideas")


def scheduler_of(llm: LLM) -> Scheduler:
    scheduler: Scheduler = llm._engine.client.core.scheduler  # type: ignore[attr-defined]
    return scheduler


def generate(llm: LLM, kinds: Sequence[dict[str, Any]] = KINDS) -> list[RequestOutput]:
    params = [SamplingParams(max_tokens=NEW, ignore_eos=True, **kind) for kind in kinds]
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS[: len(params)]]
    return llm.generate(prompts, params, use_tqdm=False)


def speculate(llm: LLM, speculator: Speculator, ahead: int) -> Any:
    """Let the engine ask `speculator` for `ahead` tokens each time; its core."""
    core = llm._engine.client.core  # type: ignore[attr-defined]
    core.executor.worker.speculator = speculator
    always_draft(scheduler_of(llm), ahead)
    return core


def assert_same(found: Sequence[RequestOutput], plain: Sequence[RequestOutput]) -> None:
    for one, other in zip(found, plain, strict=True):
        for mine, theirs in zip(one.outputs, other.outputs, strict=True):
            assert mine.token_ids == theirs.token_ids
            assert (mine.logprobs is None) == (theirs.logprobs is None)
            for entry, expected in zip(mine.logprobs or (), theirs.logprobs or (), strict=True):
                assert entry.keys() == expected.keys()
                for token, logprob in entry.items():
                    assert logprob.logprob == pytest.approx(expected[token].logprob, abs=1e-4)
                    assert logprob.rank == expected[token].rank


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"max_num_batched_tokens": 16}, {"max_model_len": 80, "kv_cache_memory_bytes": "150KiB"}],
    ids=["roomy", "chunked", "tight"],
)
@pytest.mark.parametrize("wrong", [5, 2, 1])
def test_no_token_changes(
    family: str, settings: dict[str, Any], wrong: int, checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    plain = generate(open_llm(checkpoint(family), max_num_seqs=7))
    llm = open_llm(checkpoint(family), max_num_seqs=7, **settings)
    oracle = Oracle(plain, lambda position: position % wrong == wrong - 1)
    core = speculate(llm, oracle, 3)
    assert_same(generate(llm), plain)
    drafts = core.stats().scheduler.drafts
    assert oracle.asked > 0
    assert drafts.num_draft_tokens > 0
    assert (drafts.num_accepted_tokens > 0) == (wrong > 1)
    assert drafts.num_accepted_tokens < drafts.num_draft_tokens


@pytest.mark.parametrize("wrong", [3, 1])
def test_on_a_device_that_works_by_itself_too(
    wrong: int, checkpoint: Checkpoint, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with drafts wait for their results; the steps of the others overlap."""
    plain = generate(open_llm(checkpoint("llama"), max_num_seqs=7))
    monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
    llm = open_llm(checkpoint("llama"), max_num_seqs=7)
    core = speculate(llm, Oracle(plain, lambda position: position % wrong == wrong - 1), 3)
    always_draft(scheduler_of(llm), 3, lambda sequence: sequence.slot % 2 == 1)
    assert_same(generate(llm), plain)
    assert core.stats().scheduler.drafts.num_draft_tokens > 0


def test_right_drafts_save_steps(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), max_num_seqs=7)
    plain = generate(llm)
    core = speculate(llm, Oracle(plain, lambda _: False), 5)
    before = core.stats().steps
    assert_same(generate(llm), plain)
    assert core.stats().steps - before < NEW // 3


def test_a_speculator_that_fails_costs_nobody_anything(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), max_num_seqs=7)
    plain = generate(llm)
    speculate(llm, Broken(plain, lambda _: False), 2)
    assert_same(generate(llm), plain)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "n" not in kind])
def test_appended_tokens_are_as_if_drawn(
    kind: dict[str, Any], checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    kind = {key: value for key, value in kind.items() if key != "logprobs"}  # nobody computes those
    llm = open_llm(checkpoint("llama"))
    asked = SamplingParams(max_tokens=NEW, ignore_eos=True, **kind)
    prompt = {"prompt_token_ids": PROMPTS[2]}
    plain = llm.generate([prompt], asked, use_tqdm=False)[0].outputs[0].token_ids
    core = llm._engine.client.core  # type: ignore[attr-defined]
    update = core.scheduler.update
    seen: list[int] = []

    def append_after(*step: Any) -> Any:
        """Two tokens after every sampled one, each an output of its own."""
        outputs = update(*step)
        for output in list(outputs):
            seen.extend(output.token_ids)
            if output.finish_reason is None and output.token_ids:
                more = plain[len(seen) : len(seen) + 2]
                outputs.append(core.scheduler.append(output.request_id, output.index, more))
                seen.extend(more)
        return outputs

    core.scheduler.update = append_after
    before = core.stats().steps
    assert llm.generate([prompt], asked, use_tqdm=False)[0].outputs[0].token_ids == plain
    assert core.stats().steps - before < NEW // 2
