"""A grammar and drafts together: the tokens are those of the grammar alone, whatever is proposed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quire import LLM, RequestOutput, SamplingParams, StructuredOutputsParams
from quire.runtime import worker as worker_module
from quire.testing.drafting import always_draft

from .played_device import PlayedDevice
from .test_verification import Oracle, assert_same, scheduler_of, speculate

FORMS = [
    StructuredOutputsParams(
        json={
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer"}},
            "required": ["name", "age"],
        }
    ),
    StructuredOutputsParams(regex=r"[a-z ]{12,30}\."),
    None,
]
SETTINGS: dict[str, Any] = {"show_progress": False, "dtype": "float32", "kv_cache_memory_bytes": "16MiB"}
VOCAB = 300
"""Ids below are bytes and the commonest words: near a right one there are legal ones and others."""

WRONG: list[Callable[[int], bool]] = [lambda at: at % 4 == 3, lambda at: at % 2 == 1, lambda at: True]
OpenLLM = Callable[..., LLM]


class Near(Oracle):
    """Knows the tokens of any vocabulary; the wrong ones are a right one's neighbours."""

    def _follow(self, context: list[int], k: int) -> list[int]:
        length = len(context)
        known = next(one for one in self._known if one[:length] == context)
        return [
            token + self._wrong(length + i) * (1 if token < VOCAB else -1)
            for i, token in enumerate(known[length : length + k])
        ]


@pytest.fixture(params=["xgrammar", "llguidance"])
def open_tiny(request: pytest.FixtureRequest) -> Iterator[OpenLLM]:
    """Opens the bundled model with one of the backends."""
    opened: list[LLM] = []

    def open_one(**changes: Any) -> LLM:
        grammars = {"backend": request.param, "compile_timeout": 20}  # other tests may keep the machine busy
        opened.append(LLM("tiny", **{**SETTINGS, "structured_outputs": grammars, **changes}))
        return opened[-1]

    yield open_one
    for llm in opened:
        llm.shutdown()


def generate(llm: LLM) -> list[RequestOutput]:
    params = [
        SamplingParams(seed=seed, max_tokens=48, temperature=temperature, structured_outputs=form)
        for form in FORMS
        for seed, temperature in ((3, 1.0), (4, 0.0))
    ]
    return llm.generate(["def main():\n"] * len(params), params, use_tqdm=False)


def assert_in_form(outputs: list[RequestOutput]) -> None:
    ended = [output.outputs[0] for output in outputs[:2] if output.outputs[0].finish_reason == "stop"]
    for one in ended:
        assert json.loads(one.text).keys() == {"name", "age"}


def test_drafts_change_no_token(open_tiny: OpenLLM) -> None:
    llm = open_tiny()
    plain = generate(llm)
    assert_in_form(plain)
    for wrong in WRONG:
        core = speculate(llm, Near(plain, wrong), 3)
        before = core.stats().scheduler.drafts
        assert_same(generate(llm), plain)
        after = core.stats().scheduler.drafts
        assert after.num_draft_tokens > before.num_draft_tokens
        accepted = after.num_accepted_tokens - before.num_accepted_tokens
        assert accepted < after.num_draft_tokens - before.num_draft_tokens
        assert (accepted > 0) == (wrong is not WRONG[-1])


@pytest.mark.parametrize("proposer", ["tiny", "oracle"])
def test_behind_its_end_an_output_goes_on_with_end_tokens(open_tiny: OpenLLM, proposer: str) -> None:
    """With `ignore_eos`: no matcher follows these, and no draft leads out of them."""
    form = StructuredOutputsParams(choice=["yes", "perhaps"])
    params = [
        SamplingParams(seed=seed, max_tokens=24, ignore_eos=True, temperature=heat, structured_outputs=form)
        for seed, heat in ((1, 1.0), (2, 1.0), (3, 0.0))
    ]
    config = {"model": "tiny", "num_speculative_tokens": 3} if proposer == "tiny" else None
    llm = open_tiny(speculative_config=config)

    def run() -> list[RequestOutput]:
        return llm.generate(["Well? "] * len(params), params, use_tqdm=False)

    if proposer == "tiny":
        always_draft(scheduler_of(llm), 3, lambda _: False)
    plain = run()
    assert all(one.outputs[0].text in ("yes", "perhaps") for one in plain)
    assert all(len(one.outputs[0].token_ids) == 24 for one in plain)
    if proposer == "tiny":
        always_draft(scheduler_of(llm), 3)
    else:
        speculate(llm, Near(plain, WRONG[0]), 3)
    assert_same(run(), plain)
    assert scheduler_of(llm).stats().drafts.num_accepted_tokens > 10


def test_on_a_device_that_works_by_itself_too(open_tiny: OpenLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with drafts wait for their results; the steps of the others overlap."""
    plain = generate(open_tiny())
    monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
    llm = open_tiny()
    assert_same(generate(llm), plain)
    core = speculate(llm, Near(plain, WRONG[0]), 3)
    always_draft(scheduler_of(llm), 3, lambda sequence: sequence.slot % 2 == 1)
    assert_same(generate(llm), plain)
    assert core.stats().scheduler.drafts.num_draft_tokens > 0


def guessed(llm: LLM, asks: Callable[[Any], bool] = lambda _: True) -> tuple[list[RequestOutput], float]:
    """What is said while each is asked for three tokens at a time, and how many of these were right."""
    scheduler = scheduler_of(llm)
    always_draft(scheduler, 3, asks)
    outputs = generate(llm)
    drafts = scheduler.stats().drafts
    return outputs, drafts.num_accepted_tokens / max(1, drafts.num_draft_tokens)


def test_a_draft_model_proposes_what_is_legal(open_tiny: OpenLLM) -> None:
    """The served model itself guesses all that it will say; without masks it would mostly be wrong."""
    llm = open_tiny(speculative_config={"model": "tiny", "num_speculative_tokens": 3})
    plain, _ = guessed(llm, lambda _: False)
    assert_in_form(plain)
    found, right = guessed(llm)
    assert_same(found, plain)
    assert right > 0.97


def test_it_does_on_a_device_that_works_by_itself(
    open_tiny: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
    llm = open_tiny(speculative_config={"model": "tiny", "num_speculative_tokens": 3})
    plain, _ = guessed(llm, lambda _: False)
    found, right = guessed(llm, lambda sequence: sequence.slot % 2 == 1)
    assert_same(found, plain)
    assert right > 0.97


def test_tiny_draft_is_of_use(open_tiny: OpenLLM) -> None:
    """Neither model would write JSON: left to itself, the small one is right once in sixteen times."""
    llm = open_tiny(speculative_config={"model": "tiny-draft", "num_speculative_tokens": 3})
    plain, _ = guessed(llm, lambda _: False)
    found, right = guessed(llm, lambda sequence: sequence.state.request.grammar is not None)
    assert_same(found, plain)
    assert right > 0.15
