"""What a request may say about the form of its output."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire import GuidedDecodingParams, SamplingParams, StructuredOutputsParams
from quire.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("given", "form", "text"),
    [
        ({"json": {"type": "null"}}, "json_schema", '{"type": "null"}'),
        ({"json": '{"a":1}'}, "json_schema", '{"a":1}'),
        ({"json_object": True}, "json_object", ""),
        ({"regex": "a+"}, "regex", "a+"),
        ({"choice": ["ä", "b"]}, "choice", '["ä", "b"]'),
        ({"grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
        ({"structural_tag": {"a": []}}, "structural_tag", '{"a": []}'),
    ],
)
def test_forms_and_their_sources(given: dict[str, Any], form: str, text: str) -> None:
    source = StructuredOutputsParams(**given).source
    assert (source.form, source.text) == (form, text)


def test_a_pydantic_model_is_its_schema() -> None:
    from pydantic import BaseModel

    class Point(BaseModel):
        x: int

    source = StructuredOutputsParams(json=Point).source
    assert json.loads(source.text)["properties"]["x"]["type"] == "integer"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"json_object": False},
        {"regex": "a", "choice": ["a"]},
        {"regex": ""},
        {"regex": 3},
        {"regex": "\ud800"},
        {"choice": []},
        {"choice": [1]},
        {"json": 3},
        {"json": {"a": object()}},
        {"json": {}, "disable_any_whitespace": 1},
        {"json": {}, "disable_any_whitespace": True, "whitespace_pattern": " "},
        {"regex": "a" * (1 << 21)},
    ],
)
def test_the_wrong_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        StructuredOutputsParams(**given)


def test_sampling_parameters_take_nothing_else() -> None:
    with pytest.raises(InvalidRequestError, match="structured_outputs"):
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]


def test_the_older_name_means_the_same() -> None:
    params = SamplingParams(guided_decoding=GuidedDecodingParams(choice=["a", "b"], backend="auto"))
    assert params.structured_outputs is not None
    assert params.guided_decoding is None
    assert params.structured_outputs.source == StructuredOutputsParams(choice=["a", "b"]).source
    assert params.validated() == params
    assert SamplingParams(guided_decoding=None).structured_outputs is None


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"guided_decoding .* None beside"):
        SamplingParams(
            guided_decoding=GuidedDecodingParams(regex="a"),
            structured_outputs=StructuredOutputsParams(regex="a"),
        )


@pytest.mark.parametrize(
    "given", [{"backend": "xgrammar"}, {"disable_fallback": True}, {"backend_was_auto": True}]
)
def test_the_backend_is_the_engines_to_name(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=r"structured_outputs\.backend"):
        GuidedDecodingParams(regex="a", **given)
