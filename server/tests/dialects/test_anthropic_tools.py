"""Tools and thinking in messages: what the template is given, and blocks whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire.errors import InvalidRequestError
from quire_server.anthropic.front_end import front_end
from quire_server.testing import FakeEngine, app_of

PATH = "/v1/messages"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
ASK: dict[str, Any] = {
    "model": "fake",
    "max_tokens": 400,
    "messages": [{"role": "user", "content": "Rome?"}],
    "tools": [{"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}],
}
ROME = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(tool_parser="hermes", reasoning_parser="think")


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    with TestClient(app_of(engine, front_end)) as client:
        yield client


def whole(client: TestClient, **body: Any) -> dict[str, Any]:
    """A whole message."""
    answer = client.post(PATH, json=ASK | body)
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


def streamed(client: TestClient, **body: Any) -> dict[str, Any]:
    """The message that a stream makes up, as Anthropic's client puts it together."""
    answer = client.post(PATH, json=ASK | body | {"stream": True})
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for line in answer.text.splitlines():
        if not line.startswith("data: "):
            continue
        event = json.loads(line[6:])
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                if delta["type"] == "input_json_delta":
                    inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
                else:
                    name = delta["type"].removesuffix("_delta")
                    block[name] += delta[name]
            case "content_block_stop":
                if event["index"] in inputs:
                    message["content"][event["index"]]["input"] = json.loads(inputs[event["index"]])
            case "message_delta":
                message |= event["delta"]
    return message


@pytest.mark.parametrize("ask", [whole, streamed])
def test_an_answer_is_thinking_text_and_uses(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = f"<think>\nA city.\n</think>\n\nLet me look.\n{ROME}\n{ROME}"
    message = ask(client)
    thinking, text, *uses = message["content"]
    assert thinking == {"type": "thinking", "thinking": "A city.", "signature": ""}
    assert text == {"type": "text", "text": "Let me look."}
    assert [(use["type"], use["name"], use["input"]) for use in uses] == [
        ("tool_use", "get_weather", {"city": "Rome"})
    ] * 2
    assert uses[0]["id"] != uses[1]["id"]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("ask", [whole, streamed])
def test_plain_text_is_one_block(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = "It is sunny."
    message = ask(client)
    assert message["content"] == [{"type": "text", "text": "It is sunny."}]
    assert message["stop_reason"] == "end_turn"


def test_what_is_no_call_is_text(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = ROME.replace('"Rome"', "Rome")
    message = whole(client)
    assert message["content"] == [{"type": "text", "text": engine.answer}]
    assert message["stop_reason"] == "end_turn"
    text = client.post(PATH, json=ASK | {"stream": True}).text
    assert text.count("event: content_block_start") == text.count("event: content_block_stop") == 2


def test_the_template_is_given_tools_uses_and_results(client: TestClient, engine: FakeEngine) -> None:
    turns = [
        {"role": "user", "content": "Rome?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Look it up.", "signature": ""},
                {"type": "text", "text": "One moment."},
                {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "b", "name": "get_weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "Sunny."}]},
                {"type": "tool_result", "tool_use_id": "b", "content": "no city", "is_error": True},
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    engine.answer = "Sunny."
    whole(client, messages=turns)
    chat = engine.chats[-1]
    assert [turn["role"] for turn in chat["messages"]] == ["user", "assistant", "tool", "tool", "user"]
    assistant, first, second, last = chat["messages"][1:]
    assert assistant["content"] == "One moment."
    assert assistant["reasoning_content"] == "Look it up."
    assert [call["function"]["arguments"] for call in assistant["tool_calls"]] == [{"city": "Rome"}, {}]
    assert (first["tool_call_id"], first["content"]) == ("a", "Sunny.")
    assert (second["tool_call_id"], second["content"]) == ("b", "Error: no city")
    assert last["content"] == "Well?"
    function = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}
    assert chat["tools"] == [{"type": "function", "function": function}]


def test_thinking_is_asked_of_the_template(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = "<think>Hm.</think>Yes."
    on = whole(client, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    assert [block["type"] for block in on["content"]] == ["thinking", "text"]
    off = whole(client, thinking={"type": "disabled"})
    assert [block["type"] for block in off["content"]] == ["text"]
    assert [chat["enable_thinking"] for chat in engine.chats] == [True, False]
    assert [params.thinking_token_budget for params in engine.params] == [1024, None]


def test_tokens_are_counted_with_tools(client: TestClient, engine: FakeEngine) -> None:
    body = {name: value for name, value in ASK.items() if name != "max_tokens"}
    assert client.post(f"{PATH}/count_tokens", json=body).status_code == 200
    assert engine.chats[-1]["tools"]


def test_a_backend_that_cannot_hold_calls_is_told_of(client: TestClient, engine: FakeEngine) -> None:
    engine.refuse = InvalidRequestError("structural_tag cannot be used.", field="structural_tag")
    answer = client.post(PATH, json=ASK | {"tool_choice": {"type": "any"}})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "tools cannot be used."
