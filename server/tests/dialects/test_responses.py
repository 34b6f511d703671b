"""The Responses API: by OpenAI's client and by bare HTTP, against a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.errors import OverloadedError
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.responses.front_end import front_end
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer, hang_up, wait_for

PATH = "/v1/responses"


@pytest.fixture
def client(served: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
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


def test_create(client: openai.OpenAI, served: Any) -> None:
    made = client.responses.create(
        model="fake",
        input="hello",
        instructions="be brief",
        max_output_tokens=6,
        metadata={"a": "b"},
        user="me",
    )
    assert served.engine.prompts == ["system: be brief\nuser: hello\nassistant: "]
    assert made.output_text == "system"
    assert made.status == "incomplete"
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.metadata == {"a": "b"}
    assert made.user == "me"
    assert made.usage is not None
    assert made.usage.input_tokens == len(served.engine.prompts[0])
    assert made.usage.output_tokens == 6
    assert made.usage.total_tokens == made.usage.input_tokens + 6


def test_what_ends_by_itself_is_completed(served: Any) -> None:
    defaults = served.engine.get_default_sampling_params  # a stop string stands in for an end token
    try:
        served.engine.get_default_sampling_params = lambda: _stopping(defaults())
        body = {"input": "hi"}
        whole = served.http.post(PATH, json=body).json()
        last = events_of(served.http.post(PATH, json={**body, "stream": True}).text)[-1]
    finally:
        served.engine.get_default_sampling_params = defaults
    assert whole["status"] == "completed"
    assert whole["completed_at"] >= whole["created_at"]
    assert whole["incomplete_details"] is None
    assert whole["output"][0]["status"] == "completed"
    assert last["type"] == "response.completed"


def _stopping(params: Any) -> Any:
    params.stop = ["r:"]
    return params


def test_message_list(client: openai.OpenAI, served: Any) -> None:
    client.responses.create(
        model="fake",
        input=[
            {"role": "developer", "content": "rule"},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
            },
            {"type": "message", "role": "assistant", "content": "c"},
            {"type": "message", "role": "user", "content": "d"},
        ],
        max_output_tokens=1,
    )
    assert served.engine.prompts == ["system: rule\nuser: a\nb\nassistant: c\nuser: d\nassistant: "]


def test_stream_is_the_documented_sequence(served: Any) -> None:
    reply = served.http.post(PATH, json={"input": "hey", "stream": True, "max_output_tokens": 4})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = events_of(reply.text)
    assert [one["type"].removeprefix("response.") for one in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 4,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["usage"] is None
    assert events[2]["item"]["content"] == []
    assert events[3]["part"]["text"] == ""
    assert (
        "".join(one["delta"] for one in events[4:8])
        == events[8]["text"]
        == events[9]["part"]["text"]
        == "user"
    )
    assert events[-1]["response"]["output"] == [events[-2]["item"]]
    assert events[-1]["response"]["usage"]["output_tokens"] == 4


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=20), count=st.integers(1, 40))
def test_joined_stream_equals_whole(served: Any, text: str, count: int) -> None:
    body = {"input": text, "max_output_tokens": count}
    whole = served.http.post(PATH, json=body).json()
    events = events_of(served.http.post(PATH, json={**body, "stream": True}).text)
    joined = "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
    said = "".join(part["text"] for item in whole["output"] for part in item["content"])
    assert said == events[-1]["response"]["output"][0]["content"][0]["text"]
    if (
        "\ufffd" not in said
    ):  # the fake detokenizer, unlike the engine's, shows characters before they are whole
        assert joined == said


def test_stream_by_the_client(client: openai.OpenAI) -> None:
    with client.responses.stream(model="fake", input="hello", max_output_tokens=8) as stream:
        kinds = [event.type for event in stream]
    assert kinds.count("response.output_text.delta") == 8
    parts = client.responses.create(model="fake", input="hello", max_output_tokens=8, stream=True)
    assert "".join(event.delta for event in parts if event.type == "response.output_text.delta") == "user: he"


def test_logprobs(client: openai.OpenAI, served: Any) -> None:
    made = client.responses.create(
        model="fake", input="x", max_output_tokens=3, include=["message.output_text.logprobs"], top_logprobs=2
    )
    part = made.output[0].content[0]  # type: ignore[union-attr, index]
    told = part.logprobs  # type: ignore[union-attr]
    assert told is not None
    assert [one.token for one in told] == ["u", "s", "e"]
    assert [len(one.top_logprobs) for one in told] == [2, 2, 2]
    assert told[0].top_logprobs[0].token == "u"
    reply = served.http.post(
        PATH, json={"input": "x", "max_output_tokens": 2, "stream": True, "top_logprobs": 1}
    )
    deltas = [one for one in events_of(reply.text) if one["type"] == "response.output_text.delta"]
    assert [len(one["logprobs"]) for one in deltas] == [1, 1]
    assert (
        served.http.post(PATH, json={"input": "x", "max_output_tokens": 2}).json()["output"][0]["content"][0][
            "logprobs"
        ]
        == []
    )


def test_conversation(client: openai.OpenAI, served: Any) -> None:
    first = client.responses.create(model="fake", input="one", instructions="only once", max_output_tokens=4)
    second = client.responses.create(
        model="fake", input="two", previous_response_id=first.id, max_output_tokens=4
    )
    assert served.engine.prompts[-1] == "user: one\nassistant: syst\nuser: two\nassistant: "
    assert second.previous_response_id == first.id
    third = client.responses.create(
        model="fake", input="three", previous_response_id=second.id, max_output_tokens=1
    )
    assert served.engine.prompts[-1].count("assistant: ") == 3
    assert client.responses.retrieve(third.id).output_text == third.output_text
    with pytest.raises(openai.NotFoundError, match="resp_none") as caught:
        client.responses.create(model="fake", input="x", previous_response_id="resp_none")
    assert caught.value.param == "previous_response_id"


def test_streamed_responses_are_stored_too(served: Any) -> None:
    reply = served.http.post(PATH, json={"input": "x", "stream": True, "max_output_tokens": 2})
    last = events_of(reply.text)[-1]["response"]
    assert served.http.get(f"{PATH}/{last['id']}").json() == last


def test_delete_and_store_false(client: openai.OpenAI) -> None:
    made = client.responses.create(model="fake", input="x", max_output_tokens=1)
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    made = client.responses.create(model="fake", input="x", max_output_tokens=1, store=False)
    assert made.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_input_items(client: openai.OpenAI) -> None:
    turns: Any = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    made = client.responses.create(model="fake", input=turns, max_output_tokens=1)
    page = client.responses.input_items.list(made.id, order="asc", limit=2)
    found = [one.content[0].text for one in page]  # type: ignore[union-attr, index]
    assert found == ["a", "b", "c"]  # the client turned the page
    newest = client.responses.input_items.list(made.id, limit=1).data[0]
    assert newest.content[0].text == "c"  # type: ignore[union-attr, index]


def test_background(client: openai.OpenAI, served: Any) -> None:
    served.engine.delay = 0.01
    made = client.responses.create(model="fake", input="x", background=True, max_output_tokens=5)
    assert made.status in ("queued", "in_progress")
    assert made.output == []
    wait_for(lambda: client.responses.retrieve(made.id).status == "incomplete")
    assert client.responses.retrieve(made.id).output_text == "user:"
    assert client.responses.cancel(made.id).status == "incomplete"


def test_cancel(client: openai.OpenAI, served: Any) -> None:
    served.engine.delay = 0.01
    made = client.responses.create(model="fake", input="x", background=True)
    wait_for(lambda: client.responses.retrieve(made.id).status == "in_progress")
    assert client.responses.cancel(made.id).status == "cancelled"
    assert served.engine.aborted == 1
    assert served.engine.running == 0
    assert client.responses.cancel(made.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.responses.create(model="fake", input="x", previous_response_id=made.id)


def test_deleting_what_runs_aborts_it(client: openai.OpenAI, served: Any) -> None:
    served.engine.delay = 0.01
    made = client.responses.create(model="fake", input="x", background=True)
    wait_for(lambda: served.engine.running == 1)
    client.responses.delete(made.id)
    wait_for(lambda: served.engine.running == 0)
    assert served.engine.aborted == 1


def test_only_what_runs_in_the_background_is_cancelled(client: openai.OpenAI) -> None:
    made = client.responses.create(model="fake", input="x", max_output_tokens=1)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(made.id)


def test_failures(client: openai.OpenAI, served: Any) -> None:
    served.engine.fail_after = 2
    with pytest.raises(openai.InternalServerError, match="on purpose"):
        client.responses.create(model="fake", input="x")
    last = events_of(served.http.post(PATH, json={"input": "x", "stream": True}).text)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["code"] == "server_error"
    made = client.responses.create(model="fake", input="x", background=True)
    wait_for(lambda: client.responses.retrieve(made.id).status == "failed")
    assert client.responses.retrieve(made.id).error is not None


def test_statuses(client: openai.OpenAI, served: Any) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="other", input="x")
    assert unknown.value.code == "model_not_found"
    served.engine.refuse = OverloadedError("8 requests wait already.")
    for stream in (False, True):
        reply = served.http.post(PATH, json={"input": "x", "stream": stream})
        assert reply.status_code == 429
        assert reply.headers["retry-after"] == "1"
    served.service.draining = True
    assert served.http.post(PATH, json={"input": "x"}).status_code == 503


@pytest.mark.parametrize(
    "extra",
    [
        {"stream": True},
        {"stream": False},
    ],
)
def test_disconnect_aborts(served: Any, extra: dict[str, Any]) -> None:
    served.engine.delay = 0.02
    hang_up(served.server, PATH, {"input": "x", **extra}, lambda: served.engine.running == 1)
    wait_for(lambda: served.engine.aborted == 1)
    assert served.engine.running == 0


def test_stored_responses_are_not_streamed(served: Any) -> None:
    made = served.http.post(PATH, json={"input": "x", "max_output_tokens": 1}).json()
    assert served.http.get(f"{PATH}/{made['id']}", params={"stream": "true"}).status_code == 400


def test_with_several_processes_nothing_is_stored() -> None:
    service = Service(FakeEngine(), ServeConfig(api_workers=2), ServerMetrics())
    with (
        LiveServer(build_app(service, [front_end(service, None)])) as server,
        httpx.Client(base_url=server.url) as http,
    ):
        made = http.post(PATH, json={"input": "x", "max_output_tokens": 1})
        assert made.status_code == 200
        assert made.json()["store"] is False
        gone = http.get(f"{PATH}/{made.json()['id']}")
        assert gone.status_code == 404
        assert "api_workers" in gone.json()["error"]["message"]
        for extra in ({"store": True}, {"background": True}, {"previous_response_id": "resp_1"}):
            reply = http.post(PATH, json={"input": "x", **extra})
            assert reply.status_code == 400
            assert reply.json()["error"]["param"] == next(iter(extra))
            assert "api_workers" in reply.json()["error"]["message"]
