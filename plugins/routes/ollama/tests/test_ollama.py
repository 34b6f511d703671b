"""Ollama's API: by Ollama's client and by bare HTTP, against a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import ollama
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from quire.errors import OverloadedError
from quire_route_ollama.front_end import front_end
from quire_route_ollama.options import Options
from quire_route_ollama.request import ChatRequest, GenerateRequest
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.service import Service
from quire_server.testing import MAX_MODEL_LEN, FakeEngine, LiveServer, hang_up, wait_for

GENERATE, CHAT = "/api/generate", "/api/chat"
BASES: dict[str, dict[str, Any]] = {
    GENERATE: {"model": "fake", "prompt": "x", "options": {"num_predict": 4}},
    CHAT: {
        "model": "fake",
        "messages": [{"role": "user", "content": "x"}],
        "options": {"num_predict": 4},
    },
}
BOTH = pytest.mark.parametrize("path", [GENERATE, CHAT])


@pytest.fixture
def client(served: Any) -> Iterator[ollama.Client]:
    with ollama.Client(host=served.url) as client:
        yield client


def lines_of(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in reply.text.splitlines()]


def text_of(found: dict[str, Any]) -> str:
    text: str = found["response"] if "response" in found else found["message"]["content"]
    return text


def test_generate(client: ollama.Client, served: Any) -> None:
    made = client.generate(model="fake", prompt="hello", system="be brief", options={"num_predict": 6})
    assert served.engine.prompts == ["system: be brief\nuser: hello\nassistant: "]
    assert made.response == "system"
    assert made.done is True
    assert made.done_reason == "length"
    assert made.model == "fake"
    assert made.prompt_eval_count == len(served.engine.prompts[0])
    assert made.eval_count == 6
    assert made.created_at is not None
    assert datetime.fromisoformat(made.created_at).tzinfo is not None
    assert made.total_duration is not None
    assert made.total_duration >= (made.prompt_eval_duration or 0) + (made.eval_duration or 0) - 1
    assert made.total_duration > 0


def test_chat(client: ollama.Client, served: Any) -> None:
    made = client.chat(
        model="fake:latest",
        messages=[
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        options={"num_predict": 6},
        keep_alive="5m",
    )
    assert served.engine.prompts == ["system: s\nuser: a\nassistant: b\nuser: c\nassistant: "]
    assert made.message.role == "assistant"
    assert made.message.content == "system"
    assert made.model == "fake:latest"


def test_begun_answer_is_continued(client: ollama.Client, served: Any) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "It is"}]
    client.chat(model="fake", messages=turns, options={"num_predict": 1})
    assert served.engine.prompts == ["user: a\nassistant: It is"]


def test_raw(client: ollama.Client, served: Any) -> None:
    made = client.generate(model="fake", prompt="hello", raw=True, options={"num_predict": 3})
    assert served.engine.prompts == ["hello"]
    assert made.response == "hel"
    assert made.prompt_eval_count == 6  # BOS


@BOTH
def test_streams_unless_told_not_to(served: Any, path: str) -> None:
    *pieces, last = lines_of(served.http.post(path, json=BASES[path]))
    assert [text_of(one) for one in pieces] == list("user")
    assert [one["done"] for one in pieces] == [False] * 4
    assert text_of(last) == ""
    assert last["done"] is True
    assert last["done_reason"] == "length"
    assert last["eval_count"] == 4
    for name in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert isinstance(last[name], int)


def test_stream_by_the_client(client: ollama.Client) -> None:
    parts = list(client.generate(model="fake", prompt="hello", stream=True, options={"num_predict": 8}))
    assert "".join(part.response or "" for part in parts) == "user: he"
    assert parts[-1].done_reason == "length"
    turns = [{"role": "user", "content": "hello"}]
    chat = client.chat(model="fake", messages=turns, stream=True, options={"num_predict": 8, "stop": [":"]})
    said = list(chat)
    assert said[-1].done_reason == "stop"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([GENERATE, CHAT]), text=st.text("abc \n\u00e9", min_size=1), count=st.integers(1, 40)
)
def test_joined_stream_equals_whole(served: Any, path: str, text: str, count: int) -> None:
    body = {**BASES[path], "options": {"num_predict": count}}
    body["prompt" if path == GENERATE else "messages"] = (
        text if path == GENERATE else [{"role": "user", "content": text}]
    )
    whole = served.http.post(path, json={**body, "stream": False}).json()
    lines = lines_of(served.http.post(path, json=body))
    if "\ufffd" not in text_of(whole):  # the fake detokenizer shows characters before they are whole
        assert "".join(text_of(one) for one in lines) == text_of(whole)
    assert lines[-1]["eval_count"] == whole["eval_count"] == count


def test_options(served: Any) -> None:
    options = {
        "num_predict": 3,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.8,
        "min_p": 0.1,
        "seed": 5,
        "stop": "zzz",
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "num_ctx": MAX_MODEL_LEN,
    }
    assert served.http.post(GENERATE, json={**BASES[GENERATE], "options": options}).status_code == 200
    params = served.engine.params[0]
    assert params.max_tokens == 3
    assert params.repetition_penalty == 1.1
    assert params.stop == ["zzz"]
    for name in ("temperature", "top_k", "top_p", "min_p", "seed", "presence_penalty", "frequency_penalty"):
        assert getattr(params, name) == options[name]


@pytest.mark.parametrize("options", [None, {}, {"num_predict": -1}, {"num_predict": -2}])
def test_without_a_limit_all_that_fits(served: Any, options: dict[str, Any] | None) -> None:
    body = {**BASES[GENERATE], "options": options, "stream": False}
    made = served.http.post(GENERATE, json=body).json()
    assert made["eval_count"] == 400  # the server's cap
    assert made["done_reason"] == "length"


def test_logprobs(client: ollama.Client) -> None:
    made = client.generate(
        model="fake", prompt="x", raw=True, logprobs=True, top_logprobs=2, options={"num_predict": 2}
    )
    assert made.logprobs is not None
    assert [one.token for one in made.logprobs] == ["x", "x"]
    assert [len(one.top_logprobs or ()) for one in made.logprobs] == [2, 2]


@BOTH
def test_empty_prompt_asks_whether_it_is_loaded(served: Any, path: str) -> None:
    reply = served.http.post(path, json={"model": "fake", "keep_alive": -1})
    assert reply.json()["done_reason"] == "load"
    assert reply.json()["done"] is True
    assert text_of(reply.json()) == ""
    assert served.engine.prompts == []
    served.engine.health = "loading"
    assert served.http.post(path, json={"model": "fake"}).status_code == 503


@BOTH
def test_content_type_does_not_matter(served: Any, path: str) -> None:
    for kind in ({}, {"content-type": "application/x-www-form-urlencoded"}):
        reply = served.http.post(path, content=json.dumps(BASES[path]), headers=kind)
        assert lines_of(reply)[-1]["done"] is True


def test_catalog(client: ollama.Client) -> None:
    assert [one.model for one in client.list().models] == ["fake:latest", "other:7b"]
    shown = client.show("other:7b")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["fake.context_length"] == MAX_MODEL_LEN
    assert shown.details is not None
    assert shown.details.family == "fake"
    running = client.ps().models[0]
    assert running.context_length == MAX_MODEL_LEN
    assert running.size_vram == 0


def test_version(served: Any) -> None:
    assert set(served.http.get("/api/version").json()) == {"version"}


@pytest.mark.parametrize("body", [{"name": "fake"}, {"model": "fake:latest"}])
def test_show_by_either_name(served: Any, body: dict[str, Any]) -> None:
    assert served.http.post("/api/show", json=body).status_code == 200


def test_statuses(client: ollama.Client, served: Any) -> None:
    for call in (
        lambda: client.generate(model="none", prompt="x"),
        lambda: client.chat(model="fake:7b", messages=[{"role": "user", "content": "x"}]),
        lambda: client.show("none"),
    ):
        with pytest.raises(ollama.ResponseError, match="does not exist") as caught:
            call()
        assert caught.value.status_code == 404
    assert served.http.get("/api/none").json().keys() == {"error"}
    assert served.http.post("/api/show", json={}).status_code == 400
    served.engine.refuse = OverloadedError("8 requests wait already.")
    for path, body in BASES.items():
        reply = served.http.post(path, json=body)
        assert reply.status_code == 429
        assert reply.headers["retry-after"] == "1"
    served.service.draining = True
    assert served.http.post(GENERATE, json=BASES[GENERATE]).status_code == 503


@BOTH
def test_failures(served: Any, path: str) -> None:
    served.engine.fail_after = 2
    whole = served.http.post(path, json={**BASES[path], "stream": False})
    assert whole.status_code == 500
    assert "on purpose" in whole.json()["error"]
    assert "on purpose" in lines_of(served.http.post(path, json=BASES[path]))[-1]["error"]


@BOTH
@pytest.mark.parametrize("stream", [False, True])
def test_disconnect_aborts(served: Any, path: str, stream: bool) -> None:
    served.engine.delay = 0.02
    hang_up(served.server, path, {**BASES[path], "stream": stream}, lambda: served.engine.running == 1)
    wait_for(lambda: served.engine.aborted == 1)
    assert served.engine.running == 0


IN_BOTH: list[tuple[dict[str, Any], str]] = [
    ({"format": "xml"}, "format"),
    ({"format": 1}, "format"),
    ({"think": True}, "think"),
    ({"think": "high"}, "think"),
    ({"think": "much"}, "think"),
    ({"truncate": True}, "truncate"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"model": ""}, "model"),
    ({"options": {"num_ctx": MAX_MODEL_LEN + 1}}, "options.num_ctx"),
    ({"options": {"num_ctx": 2**64}}, "options.num_ctx"),
    ({"options": {"num_predict": 0}}, "options.num_predict"),
    ({"options": {"num_predict": 401}}, "options.num_predict"),
    ({"options": {"num_predict": 2**64}}, "options.num_predict"),
    ({"options": {"temperature": -1}}, "options.temperature"),
    ({"options": {"top_p": 0}}, "options.top_p"),
    ({"options": {"seed": 2**65}}, "options.seed"),
    ({"options": {"stop": ["x"] * 1000}}, "options.stop"),
    ({"options": {"repeat_penalty": 0}}, "options.repeat_penalty"),
    *(({"options": {name: 5}}, f"options.{name}") for name in Options.refused),
]
REFUSED = [
    *((path, *case) for path in (GENERATE, CHAT) for case in IN_BOTH),
    *((GENERATE, {name: ["a"]}, name) for name in GenerateRequest.refused),
    *((CHAT, {name: ["a"]}, name) for name in ChatRequest.refused),
    (GENERATE, {"raw": True, "system": "s"}, "system"),
    (GENERATE, {"prompt": "x" * MAX_MODEL_LEN}, "prompt"),
    (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "images": ["eA=="]}]}, "messages[0].images"),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
]


@pytest.mark.parametrize(("path", "extra", "param"), REFUSED, ids=lambda value: str(value)[:50])
def test_refused_by_name(served: Any, path: str, extra: dict[str, Any], param: str) -> None:
    reply = served.http.post(path, json={**BASES[path], **extra})
    assert reply.status_code == 400
    assert reply.json().keys() == {"error"}
    assert param in reply.json()["error"]
    assert served.engine.running == 0


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        (GENERATE, {"format": "", "images": [], "think": False, "suffix": "", "context": [], "template": ""}),
        (CHAT, {"tools": [], "think": False, "format": None}),
        (CHAT, {"messages": [{"role": "user", "content": "x", "images": None, "tool_calls": []}]}),
        (GENERATE, {"options": {"mirostat": 0, "repeat_last_n": -1, "typical_p": 1.0}}),
    ],
)
def test_what_asks_for_nothing_passes(served: Any, path: str, extra: dict[str, Any]) -> None:
    assert served.http.post(path, json={**BASES[path], **extra, "stream": True}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"[" * 5000, b"\xff", b"1" * 5000])
@pytest.mark.parametrize("path", [GENERATE, CHAT, "/api/show"])
def test_what_is_no_object(served: Any, path: str, body: bytes) -> None:
    assert served.http.post(path, content=body).status_code == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([GENERATE, CHAT, "/api/show"]),
    body=st.dictionaries(
        st.sampled_from(sorted({*GenerateRequest.model_fields, *ChatRequest.model_fields, "name", "odd"})),
        json_values,
        max_size=5,
    ),
    options=st.none()
    | st.dictionaries(st.sampled_from(sorted(Options.model_fields)), json_values, max_size=4),
)
def test_no_body_is_a_server_error(served: Any, path: str, body: Any, options: Any) -> None:
    body = {**BASES.get(path, {"model": "fake"}), "options": options, **body}
    reply = served.http.post(path, content=json.dumps(body))
    assert reply.status_code in (200, 400, 404), reply.text
    if reply.status_code != 200:
        assert reply.json().keys() == {"error"}


@BOTH
def test_unknown_and_unused_fields_are_named(served: Any, path: str) -> None:
    body = {**BASES[path], "odd": 1, "options": {"num_predict": 1, "num_gpu": 1, "strange": 2}}
    reply = served.http.post(path, json=body)
    assert reply.status_code == 200
    named = reply.headers["x-quire-ignored-fields"]
    assert named == "odd, options.num_gpu, options.strange"
    assert "x-quire-ignored-fields" not in served.http.post(path, json=BASES[path]).headers


def test_keys_and_strict_mode() -> None:
    settings = ServeConfig(api_keys=[SecretStr("secret")], strict=True)
    service = Service(FakeEngine(), settings, ServerMetrics())
    with (
        LiveServer(build_app(service, [front_end(service, None)])) as server,
        httpx.Client(base_url=server.url) as http,
        ollama.Client(host=server.url, headers={"Authorization": "Bearer secret"}) as client,
    ):
        for method, path in (
            ("POST", GENERATE),
            ("POST", CHAT),
            ("POST", "/api/show"),
            ("GET", "/api/tags"),
            ("GET", "/api/ps"),
            ("GET", "/api/version"),
        ):
            reply = http.request(method, path)
            assert reply.status_code == 401
            assert reply.json().keys() == {"error"}
        assert client.list().models[0].model == "fake:latest"
        with pytest.raises(ollama.ResponseError, match=r"options\.num_gpu"):
            client.generate(model="fake", prompt="x", options={"num_gpu": 1})
