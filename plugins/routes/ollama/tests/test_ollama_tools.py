"""Tools and thinking in Ollama's chats: what the template is given, and answers whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire_route_ollama.front_end import front_end
from quire_server.testing import FakeEngine, app_of

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
ASK: dict[str, Any] = {
    "model": "fake",
    "messages": [{"role": "user", "content": "Rome?"}],
    "tools": [TOOL],
    "options": {"num_predict": 400},
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
    """The message of a whole answer."""
    answer = client.post("/api/chat", json=ASK | body | {"stream": False})
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()["message"]
    return message


def streamed(client: TestClient, **body: Any) -> dict[str, Any]:
    """The message that a stream makes up."""
    answer = client.post("/api/chat", json=ASK | body)
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = {"content": "", "tool_calls": []}
    for line in answer.text.splitlines():
        piece = json.loads(line)["message"]
        message["content"] += piece["content"]
        message["tool_calls"] += piece.get("tool_calls", [])
        if "thinking" in piece:
            message["thinking"] = message.get("thinking", "") + piece["thinking"]
    return message


@pytest.mark.parametrize("ask", [whole, streamed])
def test_thinking_and_calls_are_set_apart(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = f"<think>\nA city.\n</think>\n\nLet me look.\n{ROME}\n{ROME}"
    message = ask(client)
    assert message["thinking"] == "A city."
    assert message["content"] == "Let me look."
    assert [call["function"] for call in message["tool_calls"]] == [
        {"index": index, "name": "get_weather", "arguments": {"city": "Rome"}} for index in range(2)
    ]


@pytest.mark.parametrize("ask", [whole, streamed])
def test_what_is_no_call_is_content(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = ROME.replace('"Rome"', "Rome")
    message = ask(client)
    assert message["content"] == engine.answer
    assert not message.get("tool_calls")


def test_the_template_is_given_tools_calls_and_results(client: TestClient, engine: FakeEngine) -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    turns = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "25 C", "tool_name": "get_weather"},
    ]
    engine.answer = "Warm."
    assert whole(client, messages=turns)["content"] == "Warm."
    chat = engine.chats[-1]
    assert chat["tools"][0]["function"]["name"] == "get_weather"
    assert chat["messages"][1]["tool_calls"] == [{"type": "function", **call}]
    assert chat["messages"][1]["reasoning_content"] == "Hm."
    assert chat["messages"][2] == {"role": "tool", "content": "25 C", "name": "get_weather"}


@pytest.mark.parametrize(("think", "asked"), [(True, True), (False, False), ("high", True)])
def test_think_reaches_the_template(client: TestClient, engine: FakeEngine, think: Any, asked: bool) -> None:
    engine.answer = "<think>Hm.</think>Yes."
    message = whole(client, think=think)
    assert engine.chats[-1]["enable_thinking"] is asked
    assert ("thinking" in message) is asked
    assert message["content"] == "Yes."


def test_a_generated_answer_has_thinking_too(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = "<think>Hm.</think>Yes."
    body = {"model": "fake", "prompt": "Rome?", "stream": False}
    answer = client.post("/api/generate", json=body).json()
    assert (answer["thinking"], answer["response"]) == ("Hm.", "Yes.")
    assert client.post("/api/generate", json=body | {"raw": True}).json()["response"] == engine.answer


def test_show_tells_what_the_model_can(client: TestClient) -> None:
    shown = client.post("/api/show", json={"model": "fake"}).json()
    assert shown["capabilities"] == ["completion", "tools", "thinking"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": 1}}]}, "tools[0].function.parameters"),
        ({"tools": [{"function": {"name": "f", "strict": 1}}]}, "tools[0].function.strict"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "tool_name": "f"}]}, "messages[0].tool_name"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_place(
    client: TestClient, body: dict[str, Any], param: str
) -> None:
    answer = client.post("/api/chat", json=ASK | body)
    assert answer.status_code == 400
    assert param in answer.json()["error"]
