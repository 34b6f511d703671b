"""A budget of thinking: what is drawn is what would have been drawn without, up to the end that is put in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from quire import LLM, SamplingParams, StructuredOutputsParams
from quire.errors import InvalidRequestError
from quire.runtime import worker as worker_module
from quire.testing.drafting import always_draft
from quire.testing.model import Reference

from .conftest import random_prompt
from .played_device import PlayedDevice, play_graphs

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]


def marks(opening: str, closing: str) -> dict[str, Any]:
    """Settings that name the marks of the parser `think`."""
    return {"plugins": {"options": {"reasoning_parser.think": {"opening": opening, "closing": closing}}}}


THINK: dict[str, Any] = {"reasoning_parser": "think", "max_model_len": 128, **marks("<q>", "</q>")}
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}
NEW = 14
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunked": {"max_num_batched_tokens": 8},
    "cached": {"enable_prefix_caching": True},
    "drafts": {"speculative_config": NGRAM},
    "graphs": {"attention_backend": "torch", "kernels": "reference"},
    "preempted": {"kv_cache_memory_bytes": "60KiB", "enable_prefix_caching": False},
}


def ids_of(llm: LLM, text: str) -> list[int]:
    return llm.tokenize(text, add_special_tokens=False)


def run(llm: LLM, prompts: list[list[int]], params: list[SamplingParams]) -> list[list[list[int]]]:
    asked: list[Any] = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(asked, params, use_tqdm=False)
    assert all(output.error is None for output in outputs)
    return [[one.token_ids for one in output.outputs] for output in outputs]


def drawn(seed: int, **more: Any) -> dict[str, Any]:
    # Few tokens, so that drafts are right at times; none of a mark.
    few = {"allowed_token_ids": [70, 71, 72]}
    return {"temperature": 1.0, "seed": seed, "max_tokens": NEW, "ignore_eos": True, **few, **more}


@dataclass(frozen=True)
class Expected:
    """What budgets make of what is said without.

    Attributes:
        prompts: they end with the opening mark.
        budgets: one each; the last is that of all tokens.
        tokens: per prompt.
    """

    prompts: list[list[int]]
    budgets: list[int]
    tokens: list[list[list[int]]]


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> Expected:
    """The tokens of an engine without a budget, the end, and what that engine says to both."""
    budgets = [0, 1, 2, 5, 9, NEW]
    with LLM(str(checkpoint("llama").directory), show_progress=False, **THINK) as llm:
        prompts = [random_prompt(9 + i, seed=i) + ids_of(llm, "<q>") for i in range(len(budgets))]
        free = run(llm, prompts, [SamplingParams(**drawn(i)) for i in range(len(budgets))])
        found = []
        for number, (prompt, (tokens,), budget) in enumerate(zip(prompts, free, budgets, strict=True)):
            begun = (tokens[:budget] + ids_of(llm, "</q>"))[:NEW]
            rest: list[int] = []
            if len(begun) < NEW:
                params = SamplingParams(**drawn(number, max_tokens=NEW - len(begun)))
                ((rest,),) = run(llm, [prompt + begun], [params])
            found.append([begun + rest])
    return Expected(prompts, budgets, found)


def play(monkeypatch: pytest.MonkeyPatch, overlapping: bool) -> None:
    if overlapping:
        monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())


@pytest.mark.parametrize("overlapping", [False, True], ids=["in a row", "overlapping"])
@pytest.mark.parametrize("way", WAYS)
def test_the_end_comes_after_the_budget_and_the_rest_follows(
    way: str,
    overlapping: bool,
    expected: Expected,
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play(monkeypatch, overlapping)
    device = play_graphs(monkeypatch) if way == "graphs" and overlapping else None
    llm = open_llm(checkpoint("llama"), **THINK | WAYS[way])
    if way == "drafts":
        always_draft(llm._engine.client.core.scheduler, 3)  # type: ignore[attr-defined]
    params = [
        SamplingParams(**drawn(number, thinking_token_budget=budget))
        for number, budget in enumerate(expected.budgets)
    ]
    assert run(llm, expected.prompts, params) == expected.tokens
    stats = llm._engine.client.stats()
    assert stats.num_thinking_ended == 5  # the last one is at its limit with its budget
    assert device is None or device.replays
    if way == "preempted":
        assert stats.scheduler.num_preemptions > 0
    if way == "drafts":
        assert stats.scheduler.drafts.num_accepted_tokens > 0
    assert [pool.used for pool in stats.scheduler.kv] == [0]


@pytest.mark.parametrize("overlapping", [False, True], ids=["in a row", "overlapping"])
@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_thinking_that_the_model_opens(
    budget: int,
    overlapping: bool,
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mark itself is no thinking, whatever number of tokens it has."""
    play(monkeypatch, overlapping)
    llm = open_llm(checkpoint("llama"), **THINK | marks("qq", "END"), speculative_config=NGRAM)
    always_draft(llm._engine.client.core.scheduler, 3)  # type: ignore[attr-defined]
    only_q = SamplingParams(
        thinking_token_budget=budget, max_tokens=12, allowed_token_ids=ids_of(llm, "q"), ignore_eos=True
    )
    (output,) = llm.generate("Is it?", only_q, use_tqdm=False)
    assert output.outputs[0].text == f"qq{'q' * budget}END".ljust(12, "q")


@pytest.mark.parametrize("overlapping", [False, True], ids=["in a row", "overlapping"])
def test_each_completion_has_the_budget(
    overlapping: bool, checkpoint: Checkpoint, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, overlapping)
    llm = open_llm(checkpoint("llama"), **THINK)
    prompt = "Is it so?" * 4 + "<q>"
    for budget in (0, 3):
        given = drawn(3, n=3, logprobs=2, allowed_token_ids=None)
        free, held = llm.generate(
            [prompt] * 2,
            [SamplingParams(**given), SamplingParams(**given, thinking_token_budget=budget)],
            use_tqdm=False,
        )
        for one, two in zip(free.outputs, held.outputs, strict=True):
            begun = [*one.token_ids[:budget], *ids_of(llm, "</q>")]
            assert two.token_ids[: len(begun)] == begun
            assert two.logprobs is not None
            assert one.logprobs is not None
            assert two.logprobs[:budget] == one.logprobs[:budget]
            forced = [position[token].logprob for position, token in zip(two.logprobs, begun, strict=False)]
            assert forced[budget:] == [0.0] * 4
            assert len(two.logprobs) == len(two.token_ids) == NEW
        assert len({tuple(one.token_ids) for one in held.outputs}) == 3


def test_an_end_that_has_begun_is_completed(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), **THINK | marks("<q>", "qqqq"))
    only_q = SamplingParams(
        thinking_token_budget=2, max_tokens=6, allowed_token_ids=ids_of(llm, "q"), ignore_eos=True
    )
    before = llm.get_metrics().num_forced_tokens
    (output,) = llm.generate("Is it?<q>", only_q, use_tqdm=False)
    assert output.outputs[0].text == "q" * 6
    assert llm.get_metrics().num_forced_tokens - before == 2


def test_an_end_of_its_own_leaves_the_rest_alone(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    """What ends by itself, or never begins, is what it is without a budget."""
    llm = open_llm(checkpoint("llama"), **THINK | marks("<q>", "y"))
    given = drawn(1, allowed_token_ids=ids_of(llm, "xyz"))
    prompts: list[Any] = ["Is it?<q>", "Is it?"]
    free = llm.generate(prompts, SamplingParams(**given), use_tqdm=False)
    assert "y" in free[0].outputs[0].text[: NEW - 1]
    held = llm.generate(prompts, SamplingParams(**given, thinking_token_budget=NEW - 1), use_tqdm=False)
    assert [one.outputs[0].token_ids for one in held] == [one.outputs[0].token_ids for one in free]
    assert llm._engine.client.stats().num_thinking_ended == 0


def test_stops_and_limits_hold_for_the_end(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), **THINK)
    last = ids_of(llm, "</q>")[-1]
    params = [
        SamplingParams(**drawn(1, thinking_token_budget=2, stop_token_ids=[last], max_tokens=9)),
        SamplingParams(**drawn(1, thinking_token_budget=2, stop=["q>"], max_tokens=9)),
        SamplingParams(**drawn(1, thinking_token_budget=2, max_tokens=4)),
        SamplingParams(**drawn(1, thinking_token_budget=0, max_tokens=2, n=3)),
        SamplingParams(**drawn(1, thinking_token_budget=9, max_tokens=4)),
    ]
    outputs = llm.generate(["Is it?<q>"] * len(params), params, use_tqdm=False)
    first = [output.outputs[0] for output in outputs]
    assert [one.finish_reason for one in first] == ["stop", "stop", "length", "length", "length"]
    assert [one.stop_reason for one in first] == [last, "q>", None, None, None]
    assert [len(one.token_ids) for one in first] == [6, 6, 4, 2, 4]
    assert [one.text for one in outputs[3].outputs] == ["</"] * 3
    assert [pool.used for pool in llm.get_metrics().kv] == [0]


def test_a_form_follows_the_end(open_llm: OpenLLM) -> None:
    """A form that leaves the thinking free begins behind an end that is put in; one that does not, rules."""
    llm = open_llm("tiny", **THINK | {"structured_outputs": {"compile_timeout": 20}})
    choices = {"type": "or", "elements": [{"type": "const_string", "value": one} for one in ("yes", "no")]}
    free = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "</q>"}
    tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": [free, choices]}}
    behind = StructuredOutputsParams(structural_tag=tag)
    rules = StructuredOutputsParams(choice=["abcdefgh"])
    outputs = llm.generate(
        ["Is it?<q>"] * 3,
        [
            SamplingParams(seed=1, max_tokens=40, thinking_token_budget=5, structured_outputs=behind),
            SamplingParams(seed=1, max_tokens=40, thinking_token_budget=0, structured_outputs=behind),
            SamplingParams(seed=1, max_tokens=40, thinking_token_budget=1, structured_outputs=rules),
        ],
        use_tqdm=False,
    )
    thinking, _, answer = outputs[0].outputs[0].text.partition("</q>")
    assert len(ids_of(llm, thinking)) == 5
    assert answer in ("yes", "no")
    assert outputs[1].outputs[0].text in ("</q>yes", "</q>no")
    assert outputs[2].outputs[0].text == "abcdefgh"
    assert [output.error for output in outputs] == [None] * 3


def test_an_answer_that_goes_on_may_be_thinking(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), **THINK)
    only_x = SamplingParams(
        thinking_token_budget=1, max_tokens=6, allowed_token_ids=ids_of(llm, "x"), ignore_eos=True
    )
    texts = []
    for said in ("<q>Well", "<q>Well</q>So"):
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
        (output,) = llm.chat(
            messages, only_x, use_tqdm=False, add_generation_prompt=False, continue_final_message=True
        )
        texts.append(output.outputs[0].text)
    assert texts == ["x</q>x", "xxxxxx"]


def test_aborted_requests_are_forgotten(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), **THINK)
    for budget in (0, 5):
        stream = llm.stream("Is it?<q>", SamplingParams(**drawn(1, thinking_token_budget=budget, n=2)))
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    thinking = llm._engine.client.core.thinking  # type: ignore[attr-defined]
    assert (thinking._requests, thinking._outputs, thinking._due) == ({}, {}, {})


def test_prompt_logprobs_and_streams_are_the_same(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), **THINK)
    plain = SamplingParams(**drawn(1, prompt_logprobs=1))
    budget = SamplingParams(**drawn(1, prompt_logprobs=1, thinking_token_budget=0))
    free, held = llm.generate(["Is it?<q>"] * 2, [plain, budget], use_tqdm=False)
    assert held.prompt_logprobs == free.prompt_logprobs
    *_, last = llm.stream("Is it?<q>", budget)
    assert last.outputs[0].token_ids == held.outputs[0].token_ids
    assert last.outputs[0].text == held.outputs[0].text


def test_without_a_parser_it_is_refused(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"))
    with pytest.raises(InvalidRequestError, match="Name one as reasoning_parser") as raised:
        llm.generate("x", SamplingParams(thinking_token_budget=5), use_tqdm=False)
    assert raised.value.field == "thinking_token_budget"


@pytest.mark.parametrize("given", [{"thinking_token_budget": -1}, {"thinking_token_budget": True}])
def test_what_is_no_budget_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="thinking_token_budget"):
        SamplingParams(**given)
    with pytest.raises(InvalidRequestError, match="use_beam_search"):
        SamplingParams(thinking_token_budget=0, use_beam_search=True, temperature=0.0)
