"""Tools and thinking in chats: what the template is given, and answers whole and streamed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire_server.testing import FakeEngine

PATH = "/v1/chat/completions"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Rome?"}],
    "tools": [WEATHER],
    "max_tokens": 400,
}
ROME = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
BERN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern"}}\n</tool_call>'


def nested(depth: int) -> dict[str, Any]:
    """A schema in a schema, and so on."""
    return {"items": nested(depth - 1)} if depth else {}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(tool_parser="hermes", reasoning_parser="think")


def whole(client: TestClient, **body: Any) -> dict[str, Any]:
    """The first choice of a whole answer."""
    answer = client.post(PATH, json=ASK | body)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def streamed(client: TestClient, **body: Any) -> dict[str, Any]:
    """The same from a stream, put together as clients do."""
    answer = client.post(PATH, json=ASK | body | {"stream": True})
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = {"content": "", "tool_calls": []}
    reason = None
    for line in answer.text.splitlines():
        if not line.startswith("data: {"):
            continue
        (choice,) = json.loads(line[6:])["choices"]
        delta = choice["delta"]
        for name in ("content", "reasoning_content", "reasoning"):
            if name in delta:
                message[name] = message.get(name, "") + delta[name]
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(message["tool_calls"])
                message["tool_calls"].append(call)
            else:
                message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        reason = choice["finish_reason"] or reason
    return {"message": message, "finish_reason": reason}


def called(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    """Names and arguments of the calls in a choice."""
    calls = choice["message"].get("tool_calls") or []
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@pytest.mark.parametrize("ask", [whole, streamed])
def test_calls_are_set_apart(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = f"Let me look.\n{ROME}\n{BERN}"
    choice = ask(client)
    assert choice["message"]["content"] == "Let me look."
    assert called(choice) == [("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Bern"})]
    assert choice["finish_reason"] == "tool_calls"


def test_arguments_are_streamed_as_they_come(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = ROME
    text = client.post(PATH, json=ASK | {"stream": True}).text
    assert text.count('"arguments":') > len('{"city": "Rome"}')


@pytest.mark.parametrize("ask", [whole, streamed])
@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": Rome}}\n</tool_call>',
        '<tool_call>\n{"name": "get_news", "arguments": {}}\n</tool_call>',
        "Use <tool_call> for that.",
    ],
)
def test_what_is_no_call_is_content(client: TestClient, engine: FakeEngine, ask: Any, answer: str) -> None:
    engine.answer = answer
    choice = ask(client)
    assert choice["message"]["content"] == answer
    assert choice["finish_reason"] == "stop"


def test_a_call_without_other_words_has_no_content(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = ROME
    assert whole(client)["message"]["content"] is None


@pytest.mark.parametrize("ask", [whole, streamed])
def test_tools_are_not_looked_for_where_there_are_none(
    client: TestClient, engine: FakeEngine, ask: Any
) -> None:
    engine.answer = ROME
    bodies: list[dict[str, Any]] = [{"tools": None}, {"tools": []}, {"tool_choice": "none"}]
    for body in bodies:
        choice = ask(client, **body)
        assert (choice["message"]["content"], choice["finish_reason"]) == (ROME, "stop")
        assert engine.chats[-1]["tools"] is None


def test_the_template_is_given_tools_calls_and_results(client: TestClient, engine: FakeEngine) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
    }
    turns = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Look it up."},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "Sunny."}]},
    ]
    engine.answer = "It is sunny."
    assert whole(client, messages=turns)["message"]["content"] == "It is sunny."
    chat = engine.chats[-1]
    assert chat["tools"] == [WEATHER]
    told = {**call, "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
    assert chat["messages"][1]["tool_calls"] == [told]
    assert chat["messages"][1]["reasoning_content"] == "Look it up."
    assert chat["messages"][2] == {"role": "tool", "tool_call_id": "1", "content": "Sunny."}


@pytest.mark.parametrize("ask", [whole, streamed])
def test_thinking_is_set_apart(client: TestClient, engine: FakeEngine, ask: Any) -> None:
    engine.answer = f"<think>\nRome it is.\n</think>\n\n{ROME}"
    choice = ask(client)
    assert choice["message"]["reasoning_content"] == choice["message"]["reasoning"] == "Rome it is."
    assert called(choice) == [("get_weather", {"city": "Rome"})]
    choice = ask(client, include_reasoning=False)
    assert "reasoning_content" not in choice["message"]
    assert called(choice) == [("get_weather", {"city": "Rome"})]


def test_the_effort_reaches_the_template(client: TestClient, engine: FakeEngine) -> None:
    for effort in ("low", "none"):
        whole(client, reasoning_effort=effort)
    asked = [(chat["enable_thinking"], chat["reasoning_effort"]) for chat in engine.chats]
    assert asked == [(True, "low"), (False, "none")]
    whole(client)
    assert "enable_thinking" not in engine.chats[-1]


def test_marks_that_are_special_tokens_are_shown(client: TestClient, engine: FakeEngine) -> None:
    whole(client)
    engine.use_parsers(tool_parser="mistral")
    del client.app.state.service.parsers  # type: ignore[attr-defined]
    engine.answer = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Rome"}}]'
    choice = whole(client)
    assert called(choice) == [("get_weather", {"city": "Rome"})]
    assert len(choice["message"]["tool_calls"][0]["id"]) == 9
    whole(client, tools=None)
    assert [params.skip_special_tokens for params in engine.params] == [True, False, True]


def test_logprobs_and_ids_come_once_beside_calls(client: TestClient, engine: FakeEngine) -> None:
    engine.answer = ROME
    body = ASK | {"stream": True, "logprobs": True, "return_token_ids": True}
    choices = [
        json.loads(line[6:])["choices"][0]
        for line in client.post(PATH, json=body).text.splitlines()
        if line.startswith("data: {")
    ]
    ids = [one for choice in choices for one in choice.get("token_ids") or ()]
    assert bytes(ids).decode() == ROME
    assert sum(len(choice["logprobs"]["content"]) for choice in choices if choice["logprobs"]) == len(ROME)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]},
            "tools[0].function.strict",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "description": 1}}]},
            "tools[0].function.description",
        ),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(200)}}]}, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_place(
    client: TestClient, body: dict[str, Any], param: str
) -> None:
    answer = client.post(PATH, json=ASK | body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "form", [{"tool_choice": "required"}, {"tools": None, "response_format": {"type": "json_object"}}]
)
def test_beams_cannot_be_held_to_a_form(client: TestClient, form: dict[str, Any]) -> None:
    answer = client.post(PATH, json=ASK | {"use_beam_search": True, "n": 2, "temperature": 0} | form)
    assert answer.status_code == 400
    assert "use_beam_search" in answer.json()["error"]["message"]


def test_a_model_without_a_tool_parser_says_so(client: TestClient, engine: FakeEngine) -> None:
    engine.use_parsers()
    answer = client.post(PATH, json=ASK)
    assert answer.status_code == 400
    assert "tool_call_parser" in answer.json()["error"]["message"]


def test_a_choice_that_is_not_left_to_the_model(client: TestClient, engine: FakeEngine) -> None:
    engine.info = replace(engine.info, auto_tool_choice=False)
    answer = client.post(PATH, json=ASK)
    assert answer.status_code == 400
    assert "enable_auto_tool_choice" in answer.json()["error"]["message"]
    assert whole(client, tool_choice="none")["finish_reason"]


def test_a_form_leaves_thinking_that_is_open_free(client: TestClient, engine: FakeEngine) -> None:
    engine.use_parsers(reasoning_parser="deepseek_r1")
    engine.answer = 'Hm.</think>{"a": 1}'
    message = whole(client, tools=None, response_format={"type": "json_object"})["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", '{"a": 1}')
    form = engine.params[-1].structured_outputs
    assert form is not None
    assert [one["type"] for one in json.loads(form.structural_tag)["format"]["elements"]] == [
        "tag",
        "json_schema",
    ]
    lark = {**ASK, "tools": None, "guided_grammar": 'start: "a"'}
    refused = client.post(PATH, json=lark)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guided_grammar")
