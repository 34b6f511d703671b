"""Chats, whole and streamed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire_server.testing import FakeEngine

Post = Callable[..., Any]
PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


def test_an_answer_has_everything_that_openai_gives(chat: Post) -> None:
    answer = chat()
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "fake")
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "user", "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"]) == ("length", None)
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens"] == len("user: hi\nassistant: ")


def test_roles_and_parts(chat: Post, engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "be"}, {"role": "user", "content": parts}]
    chat(messages=messages)
    assert engine.prompts[-1] == "system: be\nuser: a\nb\nassistant: "


def test_the_last_message_is_continued(chat: Post, engine: FakeEngine) -> None:
    messages = [*HI, {"role": "assistant", "content": "ye"}]
    chat(messages=messages, continue_final_message=True)
    assert engine.prompts[-1] == "user: hi\nassistant: ye"
    chat(add_generation_prompt=False)
    assert engine.prompts[-1] == "user: hi\n"


def test_all_that_fits_unless_a_limit_is_named(client: TestClient, engine: FakeEngine) -> None:
    client.post(PATH, json={"messages": HI})
    assert engine.params[-1].max_tokens is None
    client.post(PATH, json={"messages": HI, "max_completion_tokens": 3})
    assert engine.params[-1].max_tokens == 3


def test_logprobs_are_consistent(chat: Post) -> None:
    (choice,) = chat(logprobs=True, top_logprobs=2)["choices"]
    content = choice["logprobs"]["content"]
    assert [one["token"] for one in content] == list("user")
    for one in content:
        assert one["bytes"] == list(one["token"].encode())
        assert len(one["top_logprobs"]) == 2
        assert {key: one[key] for key in ("token", "logprob", "bytes")} == one["top_logprobs"][0]
    (choice,) = chat(logprobs=True)["choices"]
    assert [one["top_logprobs"] for one in choice["logprobs"]["content"]] == [[]] * 4


def test_ids_and_prompt_logprobs(chat: Post) -> None:
    answer = chat(return_token_ids=True, prompt_logprobs=0)
    assert (
        len(answer["prompt_token_ids"]) == len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    )
    assert answer["choices"][0]["token_ids"] == list(b"user")


def test_the_joined_stream_is_the_whole_answer(chat: Post, events: Post) -> None:
    body: dict[str, Any] = {"n": 2, "max_tokens": 7, "logprobs": True, "top_logprobs": 1}
    whole = chat(**body)
    chunks = events(PATH, messages=HI, **body, stream_options={"include_usage": True})
    last = chunks.pop()
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole["choices"]:
        mine = [one["choices"][0] for one in chunks if one["choices"][0]["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert mine[-1]["delta"] == {}
        assert [one["finish_reason"] for one in mine] == [None] * (len(mine) - 1) + ["length"]
        text = "".join(one["delta"].get("content", "") for one in mine)
        assert text == choice["message"]["content"]
        logprobs = [one["logprobs"]["content"] for one in mine if one["logprobs"]]
        assert list(chain.from_iterable(logprobs)) == choice["logprobs"]["content"]


def test_a_stream_with_ids_and_continuous_usage(events: Post) -> None:
    options = {"continuous_usage_stats": True}
    chunks = events(PATH, messages=HI, max_tokens=2, return_token_ids=True, stream_options=options)
    assert chunks[0]["prompt_token_ids"]
    assert [one["choices"][0].get("token_ids") for one in chunks] == [None, [ord("u")], [ord("s")], None]
    assert [one["usage"]["completion_tokens"] for one in chunks] == [1, 1, 2, 2]


def test_an_error_in_a_stream_is_its_last_event(engine: FakeEngine, events: Post) -> None:
    engine.fail_after = 1
    chunks = events(PATH, messages=HI)
    assert chunks[-1]["error"]["type"] == "server_error"


def test_a_refused_stream_is_no_stream(engine: FakeEngine, refused: Post) -> None:
    engine.health = "dead"
    assert refused(PATH, {"messages": HI, "stream": True}, 503)["code"] == "engine_dead"


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "messages[0].content[0]"),
        ([{"type": "text", "text": "a"}, {"type": "input_audio"}], "messages[0].content[1]"),
        ([{"type": "text", "text": 5}], "messages[0].content[0].text"),
        ([{"type": ["text"]}], "messages[0].content[0]"),
        (["a"], "messages[0].content[0]"),
        ([], "messages[0].content"),
        (None, "messages[0].content"),
        (5, "messages[0].content"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(refused: Post, content: Any, param: str) -> None:
    assert refused(PATH, {"messages": [{"role": "user", "content": content}]})["param"] == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[0]"),
        ({"role": "tool", "content": "x", "tool_call_id": 1}, "messages[0].tool_call_id"),
        ({"role": "tool", "tool_call_id": "1"}, "messages[0].content"),
        ({"role": "function", "content": "x", "name": "f"}, "messages[0].role"),
        ({"role": "user", "content": "", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "messages[0].tool_calls[0]"),
        ({"role": "assistant", "content": "", "tool_calls": "f"}, "messages[0].tool_calls"),
        ({"role": "assistant", "content": "x", "reasoning": 1}, "messages[0].reasoning"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": ["user"], "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": "x", "name": 1}, "messages[0].name"),
    ],
)
def test_what_is_no_message_is_refused_by_its_place(refused: Post, message: Any, param: str) -> None:
    assert refused(PATH, {"messages": [message]})["param"] == param
