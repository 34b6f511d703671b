"""A form and parameters that exclude what it needs: the same becomes of it however the tokens come about."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from quire import LLM, CompletionOutput, RequestOutput, SamplingParams, StructuredOutputsParams
from quire.runtime import worker as worker_module
from quire.testing.drafting import always_draft

from .played_device import PlayedDevice
from .test_verification import scheduler_of

CHOICE = StructuredOutputsParams(choice=["yes", "perhaps"])
NUMBER = StructuredOutputsParams(regex="[0-9]{3}s")
PAIRS = StructuredOutputsParams(regex="(0=){6}")


class Answers(NamedTuple):
    """What one backend has said.

    Attributes:
        letter: the token "s".
        ways: by whether steps overlap and whether there are drafts, the outputs of each kind of request.
        failure: the error of one that could not go on.
    """

    letter: int
    ways: dict[tuple[bool, bool], dict[str, list[CompletionOutput]]]
    failure: str


def open_tiny(backend: str, overlapping: bool) -> LLM:
    """The bundled model, which proposes what it will say itself."""
    with pytest.MonkeyPatch.context() as patch:
        if overlapping:
            patch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
        return LLM(
            "tiny",
            show_progress=False,
            dtype="float32",
            kv_cache_memory_bytes="16MiB",
            logits_processors=["no-repeat-ngram"],
            speculative_config={"model": "tiny", "num_speculative_tokens": 3},
            structured_outputs={"backend": backend, "compile_timeout": 20},
        )


def generate(llm: LLM, kinds: dict[str, dict[str, Any]]) -> list[RequestOutput]:
    """Each kind with a seed and without randomness, alone and with log probabilities."""
    common: dict[str, Any] = {"max_tokens": 24, "structured_outputs": NUMBER}
    params = [
        SamplingParams(**{**common, "seed": 3, "temperature": heat, "logprobs": logprobs, **kind})
        for kind in kinds.values()
        for heat in (1.0, 0.0)
        for logprobs in (None, 1)
    ]
    return llm.generate(["Well? "] * len(params), params, use_tqdm=False)


@pytest.fixture(params=["xgrammar", "llguidance"], scope="module")
def answers(request: pytest.FixtureRequest) -> Answers:
    ways: dict[tuple[bool, bool], dict[str, list[CompletionOutput]]] = {}
    failures: list[str] = []
    for overlapping in (False, True):
        llm = open_tiny(request.param, overlapping)
        scheduler, encode = scheduler_of(llm), llm.get_tokenizer().encode
        (letter,) = encode("s", add_special_tokens=False)
        digits = [encode(str(digit), add_special_tokens=False)[-1] for digit in range(10)]
        ends: dict[str, dict[str, Any]] = {
            "choice": {"structured_outputs": CHOICE},
            "number": {},
            "stop token": {"stop_token_ids": [letter]},
        }
        kinds: dict[str, dict[str, Any]] = {
            **ends,
            **{f"long {name}": {**kind, "min_tokens": 20} for name, kind in ends.items()},
            "biased": {"logit_bias": {letter: -100}},
            "bad word": {"bad_words": ["s"]},
            "allowed": {"allowed_token_ids": digits},
            "no repetition": {"structured_outputs": PAIRS, "extra_args": {"no_repeat_ngram_size": 2}},
        }
        for drafts in (False, True):
            always_draft(scheduler, 3, lambda _, drafts=drafts: drafts)  # type: ignore[misc]
            outputs = generate(llm, kinds)
            assert (scheduler.stats().drafts.num_draft_tokens > 0) == drafts
            assert [pool.used for pool in scheduler.stats().kv] == [0]
            said = [output.outputs[0] for output in outputs]
            ways[overlapping, drafts] = {
                name: said[4 * place : 4 * place + 4] for place, name in enumerate(kinds)
            }
            failures += [output.error for output in outputs if output.error is not None]
        llm.shutdown()
    assert len(set(failures)) == 1
    return Answers(letter, ways, failures[0])


def plain(outputs: list[CompletionOutput]) -> list[tuple[Any, ...]]:
    return [(one.text, one.token_ids, one.finish_reason, one.stop_reason) for one in outputs]


@pytest.mark.parametrize("form", ["choice", "number", "stop token"])
def test_an_output_ends_with_its_form_however_long_it_is_to_be(answers: Answers, form: str) -> None:
    """Its tokens are those of a request without `min_tokens`; so with a stop token that it needs."""
    expected = answers.ways[False, False][form]
    assert all(one.finish_reason == "stop" and len(one.token_ids) < 20 for one in expected)
    assert {one.stop_reason for one in expected} == {answers.letter if form == "stop token" else None}
    for found in answers.ways.values():
        assert plain(found[form]) == plain(expected)
        assert plain(found[f"long {form}"]) == plain(expected)


@pytest.mark.parametrize("kind", ["bad word", "allowed", "no repetition"])
def test_what_is_excluded_is_in_no_output(answers: Answers, kind: str) -> None:
    """Not even where a form leaves nothing else: then the request fails, and no other."""
    for found in answers.ways.values():
        assert [one.finish_reason for one in found[kind]] == ["error"] * 4
        assert not any("s" in one.text or "0=0=" in one.text for one in found[kind])
    assert "bad_words" in answers.failure
    assert "structured_outputs" in answers.failure


def test_a_bias_excludes_nothing(answers: Answers) -> None:
    expected = answers.ways[False, False]["biased"]
    assert all(one.text.endswith("s") and one.finish_reason == "stop" for one in expected)
    assert all(plain(found["biased"]) == plain(expected) for found in answers.ways.values())
