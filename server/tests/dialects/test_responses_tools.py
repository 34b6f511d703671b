"""Tools and thinking in responses: items in, items out, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire_server.responses.front_end import front_end
from quire_server.testing import FakeEngine, app_of

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
ASK: dict[str, Any] = {"input": "Rome?", "tools": [TOOL], "max_output_tokens": 400}
ROME = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(tool_parser="hermes", reasoning_parser="think")


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    with TestClient(app_of(engine, front_end)) as client:
        yield client


def whole(client: TestClient, **body: Any) -> dict[str, Any]:
    """A whole response."""
    answer = client.post(PATH, json=ASK | body)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


def streamed(client: TestClient, **body: Any) -> dict[str, Any]:
    """The last event's response; its items are those that the events made up."""
    answer = client.post(PATH, json=ASK | body | {"stream": True})
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    texts: dict[str, str] = {}
    done: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind.endswith(".delta"):
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done"):
            assert texts.get(event["item_id"], "") == event["text"]
        elif kind == "function_call_arguments.done":
            assert texts[event["item_id"]] == event["arguments"]
        elif kind == "output_item.done":
            done.append(event["item"])
    response: dict[str, Any] = events[-1]["response"]
    assert [item for item in done if item in response["output"]] == response["output"]
    return response


@pytest.mark.parametrize("ask", [whole, streamed])
def test_an_answer_is_thinking_a_message_and_calls(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = f"<think>\nA city.\n</think>\n\nLet me look.\n{ROME}\n{ROME}"
    response = ask(client)
    thinking, message, *calls = response["output"]
    assert thinking["type"] == "reasoning"
    assert thinking["content"] == [{"type": "reasoning_text", "text": "A city."}]
    assert message["content"][0]["text"] == "Let me look."
    assert [(call["type"], call["name"], json.loads(call["arguments"])) for call in calls] == [
        ("function_call", "get_weather", {"city": "Rome"})
    ] * 2
    assert len({call["call_id"] for call in calls}) == 2
    assert {item["status"] for item in response["output"]} == {"completed"}
    assert (
        0
        < response["usage"]["output_tokens_details"]["reasoning_tokens"]
        < len(engine.answer) - 2 * len(ROME)
    )
    assert (response["tool_choice"], response["tools"]) == ("auto", [TOOL])


@pytest.mark.parametrize("ask", [whole, streamed])
def test_what_is_no_call_is_a_message(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = ROME.replace('"Rome"', "Rome")
    (message,) = ask(client)["output"]
    assert message["content"][0]["text"] == engine.answer


@pytest.mark.parametrize("ask", [whole, streamed])
def test_logprobs_are_those_of_the_message(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = f"Yes. {ROME}"
    message, _ = ask(client, include=["message.output_text.logprobs"])["output"]
    assert [one["token"] for one in message["content"][0]["logprobs"]] == list("Yes.")


def test_a_conversation_goes_on_with_outputs(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = f"<think>Hm.</think>{ROME}"
    first = whole(client)
    call = first["output"][-1]
    engine.answer = "Sunny."
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "25 C"}
    whole(client, previous_response_id=first["id"], input=[output])
    kept = engine.chats[-1]["messages"]
    assert [turn["role"] for turn in kept] == ["user", "assistant", "tool"]
    assert kept[1]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": {"city": "Rome"}}
    assert kept[1]["reasoning_content"] == "Hm."
    # The same, with the items sent again.
    question = {"role": "user", "content": "Rome?"}
    whole(client, input=[question, *first["output"], output])
    assert engine.chats[-1]["messages"] == kept


def test_input_items_are_listed(client: TestClient) -> None:
    call = {"type": "function_call", "call_id": "1", "name": "get_weather", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "x"}]}
    response = whole(client, input=[{"role": "user", "content": "Rome?"}, call, output], max_output_tokens=3)
    items = client.get(f"{PATH}/{response['id']}/input_items", params={"order": "asc"}).json()["data"]
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output"]
    assert len({item["id"] for item in items}) == 3


def test_a_stored_response_may_end_in_a_call(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = ROME
    response = whole(client, max_output_tokens=len(ROME) - 20)
    assert response["status"] == "incomplete"
    (message,) = client.get(f"{PATH}/{response['id']}").json()["output"]
    assert message["content"][0]["text"] == ROME[:-20]


@pytest.mark.parametrize("effort", ["none", "high"])
def test_the_effort_reaches_the_template(client: TestClient, engine: FakeEngine, effort: str) -> None:
    response = whole(client, reasoning={"effort": effort}, max_output_tokens=3)
    assert response["reasoning"] == {"effort": effort, "summary": None}
    assert engine.chats[-1]["enable_thinking"] is (effort == "high")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "x"}, "input[0].type"),
        ({"type": "function_call", "call_id": "1", "name": "f", "arguments": "["}, "input[0].arguments"),
        ({"type": "function_call", "call_id": "1", "arguments": "{}"}, "input[0].name"),
        ({"type": "function_call_output", "call_id": "1"}, "input[0].output"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        (
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image"}]},
            "input[0].output[0].type",
        ),
        ({"type": "reasoning", "content": "x"}, "input[0].content"),
    ],
)
def test_items_are_refused_by_their_place(client: TestClient, item: dict[str, Any], param: str) -> None:
    answer = client.post(PATH, json=ASK | {"input": [item]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_strict_tools_and_a_form_exclude_each_other(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = ROME
    strict = {"tools": [{**TOOL, "strict": True}]}
    whole(client, **strict)
    form = engine.params[-1].structured_outputs
    assert form is not None
    assert json.loads(form.structural_tag)["format"]["type"] == "triggered_tags"
    text = {"format": {"type": "json_object"}}
    answer = client.post(PATH, json={**ASK, **strict, "text": text})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
