"""The Messages API: by Anthropic's client and by bare HTTP, against a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import OverloadedError
from quire_server.anthropic.errors import render_error
from quire_server.anthropic.request import CreateMessage
from quire_server.errors import ApiError
from quire_server.testing import MAX_MODEL_LEN, hang_up, wait_for

PATH = "/v1/messages"
BASE: dict[str, Any] = {"model": "fake", "max_tokens": 4, "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def client(served: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as client:
        yield client


def events_of(text: str) -> list[dict[str, Any]]:
    """Parsed events; their names agree with their types."""
    found = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def test_create(client: anthropic.Anthropic, served: Any) -> None:
    made = client.messages.create(
        model="fake",
        max_tokens=6,
        system="be brief",
        messages=[{"role": "user", "content": "hello"}],
        metadata={"user_id": "me"},
    )
    assert served.engine.prompts == ["system: be brief\nuser: hello\nassistant: "]
    assert made.content[0].type == "text"
    assert made.content[0].text == "system"
    assert made.role == "assistant"
    assert made.model == "fake"
    assert made.id.startswith("msg_")
    assert (made.stop_reason, made.stop_sequence) == ("max_tokens", None)
    assert made.usage.input_tokens == len(served.engine.prompts[0])
    assert made.usage.output_tokens == 6
    assert made._request_id


def test_blocks_and_neighbours_of_one_role(client: anthropic.Anthropic, served: Any) -> None:
    client.messages.create(
        model="fake",
        max_tokens=1,
        system=[
            {"type": "text", "text": "a"},
            {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}},
        ],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
            {"role": "user", "content": "e"},
            {"role": "assistant", "content": "f"},
            {"role": "user", "content": "g"},
        ],
    )
    assert served.engine.prompts == ["system: a\nb\nuser: c\nd\ne\nassistant: f\nuser: g\nassistant: "]


def test_prefill_is_continued(client: anthropic.Anthropic, served: Any) -> None:
    client.messages.create(
        model="fake",
        max_tokens=1,
        messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "The answer is ("}],
    )
    assert served.engine.prompts == ["user: a\nassistant: The answer is ("]


def test_sampling(served: Any) -> None:
    body = {**BASE, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop_sequences": ["zzz"]}
    assert served.http.post(PATH, json=body).status_code == 200
    params = served.engine.params[0]
    assert (params.temperature, params.top_p, params.top_k, params.stop) == (0.5, 0.9, 7, ["zzz"])
    assert params.max_tokens == 4


def test_stop_reasons(client: anthropic.Anthropic, served: Any) -> None:
    made = client.messages.create(
        model="fake", max_tokens=50, stop_sequences=["r:"], messages=[{"role": "user", "content": "x"}]
    )
    assert (made.stop_reason, made.stop_sequence) == ("stop_sequence", "r:")
    text = "x" * (MAX_MODEL_LEN - 40)
    made = client.messages.create(model="fake", max_tokens=400, messages=[{"role": "user", "content": text}])
    assert made.stop_reason == "model_context_window_exceeded"


def test_stream_is_the_documented_sequence(served: Any) -> None:
    reply = served.http.post(PATH, json={**BASE, "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = events_of(reply.text)
    assert [one["type"] for one in events] == [
        "message_start",
        "content_block_start",
        "ping",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = events[0]["message"]
    assert start["content"] == []
    assert start["stop_reason"] is None
    assert start["usage"]["input_tokens"] == len(served.engine.prompts[0])
    assert "".join(one["delta"]["text"] for one in events[3:7]) == "user"
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 4


def test_stream_by_the_client(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="fake", max_tokens=8, messages=[{"role": "user", "content": "hello"}]
    ) as stream:
        assert "".join(stream.text_stream) == "user: he"
        final = stream.get_final_message()
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == 8


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text("abc: \u00e9", min_size=1, max_size=20),
    count=st.integers(1, 40),
    stop=st.sampled_from(["", ": "]),
)
def test_joined_stream_equals_whole(served: Any, text: str, count: int, stop: str) -> None:
    body = {**BASE, "max_tokens": count, "messages": [{"role": "user", "content": text}]}
    if stop:
        body["stop_sequences"] = [stop]
    whole = served.http.post(PATH, json=body).json()
    events = events_of(served.http.post(PATH, json={**body, "stream": True}).text)
    joined = "".join(one["delta"]["text"] for one in events if one["type"] == "content_block_delta")
    said = whole["content"][0]["text"]
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]
    # The fake engine streams what may become a stop string, and half of a character; the engine does not.
    if "\ufffd" not in said and not stop:
        assert joined == said


def test_count_tokens(client: anthropic.Anthropic, served: Any) -> None:
    count = client.messages.count_tokens(
        model="fake", system="s", messages=[{"role": "user", "content": "hello"}]
    )
    made = client.messages.create(
        model="fake", max_tokens=1, system="s", messages=[{"role": "user", "content": "hello"}]
    )
    assert count.input_tokens == made.usage.input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_disconnect_aborts(served: Any, stream: bool) -> None:
    served.engine.delay = 0.02
    hang_up(served.server, PATH, {**BASE, "stream": stream}, lambda: served.engine.running == 1)
    wait_for(lambda: served.engine.aborted == 1)
    assert served.engine.running == 0


def test_failures(client: anthropic.Anthropic, served: Any) -> None:
    served.engine.fail_after = 2
    with pytest.raises(anthropic.InternalServerError, match="on purpose"):
        client.messages.create(**BASE)
    last = events_of(served.http.post(PATH, json={**BASE, "stream": True}).text)[-1]
    assert last["type"] == "error"
    assert last["error"]["type"] == "api_error"
    with pytest.raises(anthropic.APIStatusError, match="on purpose"):
        list(client.messages.create(**BASE, stream=True))


def test_statuses(client: anthropic.Anthropic, served: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(**{**BASE, "model": "other"})
    assert unknown.value.type == "not_found_error"
    served.engine.refuse = OverloadedError("8 requests wait already.")
    with pytest.raises(anthropic.RateLimitError) as full:
        client.messages.create(**BASE)
    assert full.value.type == "rate_limit_error"
    assert full.value.response.headers["retry-after"] == "1"
    served.service.draining = True
    reply = served.http.post(PATH, json=BASE)
    assert reply.status_code == 503
    assert reply.json()["error"]["type"] == "overloaded_error"
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    for path in (PATH + "/none", PATH + "/count_tokens/none"):
        reply = served.http.get(path)
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_error_types(status: int, kind: str) -> None:
    body = render_error(ApiError(status, "no", param="top_k"))
    assert body["type"] == "error"
    assert body["error"] == {"type": kind, "message": "top_k: no"}


REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({name: {"a": 1}}, name) for name in CreateMessage.refused),
    ({"tools": [{"name": "f", "input_schema": {}}]}, "tools"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}, "thinking"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1}}, "thinking.budget_tokens"),
    ({"tools": [{"name": "f", "type": "web_search_20250305"}]}, "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ({"messages": []}, "messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
        "messages[0].content[0].tool_use_id",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].type"),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": 1}]}]},
        "messages[0].content[0].input",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "odd": 1}]}]},
        "messages[0].content[0]",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "x", "odd": 1}]}, "messages[0].odd"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y "}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x" * MAX_MODEL_LEN}]}, "messages"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 401}, "max_tokens"),
    ({"max_tokens": 2**64}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"temperature": 1.5}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 2**64}, "top_k"),
    ({"stop_sequences": ["x"] * 1000}, "stop_sequences"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"metadata": {"odd": 1}}, "metadata.odd"),
    ({"model": None}, "model"),
]


@pytest.mark.parametrize(("extra", "param"), REFUSED, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("stream", [False, True])
def test_refused_by_name(served: Any, extra: dict[str, Any], param: str, stream: bool) -> None:
    reply = served.http.post(PATH, json={**BASE, "stream": stream, **extra})
    assert reply.status_code == 400
    body = reply.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert param in body["error"]["message"]
    assert served.engine.running == 0


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
def test_required(served: Any, missing: str) -> None:
    reply = served.http.post(PATH, json={name: value for name, value in BASE.items() if name != missing})
    assert reply.status_code == 400
    assert missing in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": [], "tool_choice": {"type": "auto"}, "thinking": {"type": "disabled"}},
        {"service_tier": "auto", "mcp_servers": [], "metadata": {}, "cache_control": {"type": "ephemeral"}},
        {"system": None, "temperature": 0, "top_k": 0},
    ],
)
def test_what_asks_for_nothing_passes(served: Any, extra: dict[str, Any]) -> None:
    assert served.http.post(PATH, json={**BASE, **extra}).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([PATH, PATH + "/count_tokens"]),
    body=st.dictionaries(
        st.sampled_from([*CreateMessage.model_fields, *CreateMessage.refused, "odd"]), json_values, max_size=5
    )
    | json_values,
)
def test_no_body_is_a_server_error(served: Any, path: str, body: Any) -> None:
    if isinstance(body, dict):
        body = {**BASE, **body}
    reply = served.http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400, 404), reply.text
    if reply.status_code != 200:
        assert reply.json()["type"] == "error"
