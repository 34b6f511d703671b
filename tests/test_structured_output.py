"""Structured output from end to end, with each grammar backend: what is asked for is what comes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from quire import LLM, RequestOutput, SamplingParams, StructuredOutputsParams
from quire.errors import InvalidRequestError
from quire.testing.schema_corpus import schema_corpus

jsonschema = pytest.importorskip("jsonschema")

PROMPT = "def main():\n"
OBJECT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
}


@pytest.fixture(scope="module", params=["xgrammar", "llguidance"])
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    """The bundled model with one of the backends."""
    settings = {"backend": request.param, "compile_timeout": 20}  # other tests may keep the machine busy
    with LLM(
        "tiny",
        show_progress=False,
        dtype="float32",
        structured_outputs=settings,
        kv_cache_memory_bytes="64MiB",
    ) as llm:
        yield llm


def run(llm: LLM, *params: SamplingParams) -> list[RequestOutput]:
    return llm.generate([PROMPT] * len(params), list(params), use_tqdm=False)


def test_every_natural_end_is_valid(llm: LLM) -> None:
    corpus = schema_corpus(24, seed=7)
    params = [
        SamplingParams(seed=i, max_tokens=400, structured_outputs=StructuredOutputsParams(json=schema))
        for i, (_, schema) in enumerate(corpus)
    ]
    ended = 0
    for (name, schema), output in zip(corpus, run(llm, *params), strict=True):
        completion = output.outputs[0]
        assert output.error is None, (name, output.error)
        if completion.finish_reason == "stop":
            ended += 1
            jsonschema.validate(json.loads(completion.text), schema, cls=jsonschema.Draft202012Validator)
    assert ended >= 23


def test_choices_and_expressions_are_exact(llm: LLM) -> None:
    choices = ["positive", "negative", "it depends"]
    params = [
        SamplingParams(seed=seed, max_tokens=40, structured_outputs=StructuredOutputsParams(choice=choices))
        for seed in range(6)
    ]
    texts = {output.outputs[0].text for output in run(llm, *params)}
    assert texts <= set(choices)
    form = StructuredOutputsParams(regex=r"[a-z]{2,8}@[a-z]{2,5}\.(org|net)")
    (output,) = run(llm, SamplingParams(seed=3, n=4, max_tokens=60, structured_outputs=form))
    assert all(re.fullmatch(str(form.regex), one.text) for one in output.outputs)


def test_matchers_of_a_few_schemas_are_kept(llm: LLM) -> None:
    params = [
        SamplingParams(max_tokens=1, structured_outputs=StructuredOutputsParams(choice=[f"word {number}"]))
        for number in range(300)
    ]
    run(llm, *params)
    grammars = llm._engine.client.core.grammars  # type: ignore[attr-defined]
    assert 0 < len(grammars._templates) <= 256


def test_streamed_is_whole(llm: LLM) -> None:
    params = SamplingParams(seed=5, max_tokens=200, structured_outputs=StructuredOutputsParams(json=OBJECT))
    (whole,) = run(llm, params)
    *_, last = llm.stream(PROMPT, params)
    assert last.outputs[0].token_ids == whole.outputs[0].token_ids
    assert last.outputs[0].text == whole.outputs[0].text


def test_neighbours_without_a_form_are_left_alone(llm: LLM) -> None:
    plain = SamplingParams(seed=9, max_tokens=24, ignore_eos=True)
    (alone,) = run(llm, plain)
    form = SamplingParams(seed=1, max_tokens=60, structured_outputs=StructuredOutputsParams(json=OBJECT))
    beside = run(llm, form, plain, form)[1]
    assert beside.outputs[0].token_ids == alone.outputs[0].token_ids


def test_appended_tokens_are_those_that_would_be_drawn(llm: LLM) -> None:
    form = StructuredOutputsParams(choice=["a long way to go", "nothing else will do"])
    before = llm.get_metrics().num_forced_tokens
    (jumped,) = run(llm, SamplingParams(seed=2, max_tokens=60, structured_outputs=form))
    appended = llm.get_metrics().num_forced_tokens - before
    assert appended > 0
    # Each token's log probability is asked for, so that each is drawn.
    (drawn,) = run(llm, SamplingParams(seed=2, max_tokens=60, structured_outputs=form, logprobs=0))
    assert llm.get_metrics().num_forced_tokens - before == appended
    assert drawn.outputs[0].token_ids == jumped.outputs[0].token_ids


def test_the_end_with_ignore_eos_and_by_the_limit(llm: LLM) -> None:
    form = StructuredOutputsParams(choice=["ab"])
    on, cut = run(
        llm,
        SamplingParams(max_tokens=12, ignore_eos=True, structured_outputs=form),
        SamplingParams(max_tokens=1, structured_outputs=StructuredOutputsParams(json=OBJECT)),
    )
    assert (on.outputs[0].text, on.outputs[0].finish_reason) == ("ab", "length")
    assert cut.outputs[0].finish_reason == "length"


def test_what_no_token_can_follow_fails_alone(llm: LLM) -> None:
    banned = SamplingParams(
        max_tokens=5, structured_outputs=StructuredOutputsParams(choice=["ab"]), allowed_token_ids=[50]
    )
    failed, fine = run(llm, banned, SamplingParams(max_tokens=5, ignore_eos=True))
    assert failed.outputs[0].finish_reason == "error"
    assert len(fine.outputs[0].token_ids) == 5


@pytest.mark.parametrize(
    "form", [{"regex": "("}, {"json": {"type": "strange"}}, {"grammar": "root ::= nowhere"}]
)
def test_the_malformed_is_refused_before_anything_runs(llm: LLM, form: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        run(llm, SamplingParams(structured_outputs=StructuredOutputsParams(**form)))  # type: ignore[arg-type]


def test_a_preempted_output_goes_on(llm: LLM) -> None:
    backend = llm.config.structured_outputs.backend
    form = StructuredOutputsParams(regex="([a-f]{3}-){30}")
    params = [SamplingParams(seed=i, max_tokens=200, structured_outputs=form) for i in range(6)]
    expected = [output.outputs[0].token_ids for output in run(llm, *params)]
    size = llm.startup_report.memory.kv // llm.startup_report.memory.num_blocks * 18
    settings = {"backend": backend, "compile_timeout": 20}
    with LLM(
        "tiny",
        show_progress=False,
        dtype="float32",
        structured_outputs=settings,
        max_model_len=256,
        kv_cache_memory_bytes=size,
    ) as small:
        outputs = run(small, *params)
        assert small.get_metrics().num_preemptions > 0
    assert [output.outputs[0].token_ids for output in outputs] == expected
