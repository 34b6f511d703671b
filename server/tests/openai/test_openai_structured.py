"""The form of an answer in OpenAI's APIs: which field becomes what, and which is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from quire.contracts.grammar import GrammarSource
from quire.errors import InvalidRequestError
from quire_server.testing import FakeEngine

Post = Callable[..., Any]
PATHS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "abc", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TAG = {"structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}], "triggers": ["<a>"]}
AS_SCHEMA = GrammarSource(form="json_schema", text=json.dumps(SCHEMA))
BOTH = pytest.mark.parametrize("path", PATHS)


def response_format(**schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


FORMS: list[tuple[dict[str, Any], GrammarSource | None]] = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, GrammarSource(form="json_object", text="")),
    (response_format(name="n", strict=True, schema=SCHEMA), AS_SCHEMA),
    ({"guided_json": SCHEMA}, AS_SCHEMA),
    ({"guided_json": json.dumps(SCHEMA)}, AS_SCHEMA),
    ({"guided_regex": "a+"}, GrammarSource(form="regex", text="a+")),
    ({"guided_choice": ["a", "b"]}, GrammarSource(form="choice", text='["a", "b"]')),
    ({"guided_grammar": 'root ::= "a"'}, GrammarSource(form="grammar", text='root ::= "a"')),
    (
        {"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"},
        GrammarSource(form="json_schema", text=json.dumps(SCHEMA), whitespace=" ?"),
    ),
    ({"structural_tag": TAG}, GrammarSource(form="structural_tag", text=json.dumps(TAG))),
    ({"structured_outputs": {"json": SCHEMA, "regex": None}}, AS_SCHEMA),
    (
        {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
        GrammarSource(form="json_schema", text=json.dumps(SCHEMA), compact=True),
    ),
]


@BOTH
@pytest.mark.parametrize(("fields", "source"), FORMS, ids=lambda value: str(value)[:40])
def test_what_reaches_the_engine(
    events: Post, engine: FakeEngine, path: str, fields: dict[str, Any], source: GrammarSource | None
) -> None:
    events(path, **PATHS[path], **fields)
    found = engine.params[-1].structured_outputs
    assert (None if found is None else found.source) == source


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    (response_format(name="n"), "response_format.json_schema.schema"),
    (response_format(schema="no"), "response_format.json_schema.schema"),
    ({"guided_json": 5}, "guided_json"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_choice": "a"}, "guided_choice"),
    ({"guided_regex": ""}, "guided_regex"),
    ({"guided_grammar": 1}, "guided_grammar"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": []}, "structured_outputs"),
    ({"structured_outputs": {"odd": 1}}, "structured_outputs"),
    ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
]


@BOTH
@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_the_malformed_is_refused_by_name(
    refused: Post, engine: FakeEngine, path: str, fields: dict[str, Any], param: str
) -> None:
    assert refused(path, PATHS[path] | fields)["param"] == param
    assert not engine.prompts


@BOTH
@pytest.mark.parametrize(
    ("fields", "engines"),
    [
        (response_format(name="n", schema=SCHEMA), "json_schema"),
        ({"guided_regex": "a"}, "regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
    ],
)
def test_what_no_backend_holds_is_told_by_the_clients_name(
    refused: Post, engine: FakeEngine, path: str, fields: dict[str, Any], engines: str
) -> None:
    engine.refuse = InvalidRequestError("It cannot be held.", field=engines)
    for stream in (False, True):
        error = refused(path, {**PATHS[path], **fields, "stream": stream})
        assert (error["param"], error["message"]) == (next(iter(fields)), "It cannot be held.")
