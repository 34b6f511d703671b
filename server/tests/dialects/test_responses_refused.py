"""What the Responses API refuses, and that it refuses it by name, against a fake engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire_server.responses.request import CreateResponse
from quire_server.testing import MAX_MODEL_LEN

PATH = "/v1/responses"

REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({name: {"a": 1}}, name) for name in CreateResponse.refused),
    ({"tools": [{"type": "function", "name": "f"}]}, "tools"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_object", "odd": 1}}}, "text.format"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"truncation": "auto"}, "truncation"),
    ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"background": True, "stream": True}, "stream"),
    ({"background": True, "store": False}, "store"),
    ({"input": []}, "input"),
    ({"input": [{"role": "user", "content": "x"}] * 10_001}, "input"),
    ({"input": [{"type": "web_search_call", "id": "f"}]}, "input[0].type"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].arguments"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"input": [{"role": "user", "content": "x", "odd": 1}]}, "input[0]"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": "x" * MAX_MODEL_LEN}, "input"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 401}, "max_output_tokens"),
    ({"max_output_tokens": 2**64}, "max_output_tokens"),
    ({"max_output_tokens": "5"}, "max_output_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ({"stream": 1}, "stream"),
]


@pytest.mark.parametrize(("extra", "param"), REFUSED, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("stream", [False, True])
def test_refused_by_name(served: Any, extra: dict[str, Any], param: str, stream: bool) -> None:
    reply = served.http.post(PATH, json={"input": "x", **({"stream": True} if stream else {}), **extra})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert served.engine.running == 0


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"reasoning": {"effort": None, "summary": None}, "service_tier": "auto", "truncation": "disabled"},
        {"text": {"format": {"type": "text"}}, "stream_options": {"include_obfuscation": False}},
        {"top_logprobs": 0, "include": [], "safety_identifier": "a", "prompt_cache_key": "b"},
        {"prompt": None, "conversation": None},
    ],
)
def test_what_asks_for_nothing_passes(served: Any, extra: dict[str, Any]) -> None:
    assert served.http.post(PATH, json={"input": "x", "max_output_tokens": 1, **extra}).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.dictionaries(
        st.sampled_from([*CreateResponse.model_fields, *CreateResponse.refused, "odd"]),
        json_values,
        max_size=5,
    )
    | json_values
)
def test_no_body_is_a_server_error(served: Any, body: Any) -> None:
    if isinstance(body, dict):
        body = {"input": "x", **body, "max_output_tokens": body.get("max_output_tokens", 2)}
    reply = served.http.post(PATH, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400, 404), reply.text
    if reply.status_code != 200:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
