"""The form of an answer in responses and messages: what reaches the engine, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire.contracts.grammar import GrammarSource
from quire.errors import InvalidRequestError

RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
BASES: dict[str, dict[str, Any]] = {
    RESPONSES: {"input": "x", "max_output_tokens": 2},
    MESSAGES: {"model": "fake", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
AS_SCHEMA = GrammarSource(form="json_schema", text=json.dumps(SCHEMA))


@pytest.mark.parametrize(
    ("path", "fields", "source"),
    [
        (RESPONSES, {"text": {"format": {"type": "text"}}}, None),
        (
            RESPONSES,
            {"text": {"format": {"type": "json_object"}}},
            GrammarSource(form="json_object", text=""),
        ),
        (RESPONSES, {"text": {"format": {**FORMAT, "name": "n", "strict": True}}}, AS_SCHEMA),
        (MESSAGES, {"output_config": {"format": FORMAT}}, AS_SCHEMA),
        (MESSAGES, {"output_config": {}}, None),
        (MESSAGES, {"output_format": FORMAT}, AS_SCHEMA),
    ],
)
def test_what_reaches_the_engine(
    served: Any, path: str, fields: dict[str, Any], source: GrammarSource | None
) -> None:
    for stream in (False, True):
        reply = served.http.post(path, json={**BASES[path], **fields, "stream": stream})
        assert reply.status_code == 200, reply.text
        found = served.engine.params[-1].structured_outputs
        assert (None if found is None else found.source) == source


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"format": {"type": "yaml"}}}, "output_config.format"),
        ({"output_config": {"format": "json"}}, "output_config.format"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"output_format": {"type": "json_schema", "schema": "no"}}, "output_format.schema"),
    ],
)
def test_messages_refuse_the_malformed(served: Any, fields: dict[str, Any], param: str) -> None:
    reply = served.http.post(MESSAGES, json=BASES[MESSAGES] | fields)
    assert reply.status_code == 400
    assert param in reply.json()["error"]["message"]
    assert not served.engine.prompts


def test_what_no_backend_holds_is_told_by_the_clients_name(served: Any) -> None:
    served.engine.refuse = InvalidRequestError("json_schema cannot be held.", field="json_schema")
    asked = {**BASES[RESPONSES], "text": {"format": {**FORMAT, "name": "n"}}}
    assert served.http.post(RESPONSES, json=asked).json()["error"]["param"] == "text.format"
    reply = served.http.post(MESSAGES, json=BASES[MESSAGES] | {"output_format": FORMAT})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("output_format cannot")
