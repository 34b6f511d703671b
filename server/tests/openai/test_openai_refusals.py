"""What is refused, by which name, and what passes because it asks for nothing."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire.text.chat import RESERVED_VARIABLES
from quire_server.config import ServeConfig
from quire_server.testing import VOCAB_SIZE, FakeEngine

Post = Callable[..., Any]
START: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "abc", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
}
COMPLETIONS, CHATS = START
HUGE = 10**400


def of(name: str, *values: Any) -> list[tuple[str, Any]]:
    return [(name, value) for value in values]


def on(path: str, name: str, *values: Any) -> list[tuple[str, str, Any]]:
    return [(path, name, value) for value in values]


INVALID: list[tuple[str, Any]] = [
    ("logits_processors", ["os.system"]),
    ("guided_whitespace_pattern", " "),
    ("truncate_prompt_tokens", 5),
    ("prompt_embeds", "AAAA"),
    ("service_tier", "flex"),
    ("store", True),
    ("metadata", [1]),
    ("length_penalty", 0.5),
    ("length_penalty", True),
    ("use_beam_search", "yes"),
    ("early_stopping", True),
    ("early_stopping", "soon"),
    ("spaces_between_special_tokens", False),
    *of("n", 0, -1, 65, 10**9, HUGE, True, 1.5, "1", [1]),
    *of("best_of", 0, 10**9, True),
    *of("temperature", -1, HUGE, True, "0", {}),
    *of("top_p", 0, 1.5, True),
    *of("top_k", -2, 2**64, True, 1.5),
    *of("min_p", -0.1, 2),
    *of("repetition_penalty", 0, -1),
    *of("frequency_penalty", -3, True),
    *of("presence_penalty", 3),
    *of("seed", 2**64, 2**70, True, 0.5),
    *of("max_tokens", -1, 2**31, 2**64, True, "9"),
    *of("min_tokens", -1, 2**64, 3, True),
    *of("stop", "", [""], [5], ["x"] * 1000, "x" * 5000, {}, 7),
    *of("stop_token_ids", [-1], [VOCAB_SIZE], [2**31], [2**64], [True], "7", [0] * 9999),
    *of("allowed_token_ids", [], [-1], [VOCAB_SIZE], [2**64], ["1"], {}),
    *of("logit_bias", {"-1": 1}, {str(VOCAB_SIZE): 1}, {str(2**31): 1}, {str(2**64): 1}),
    *of("logit_bias", {"1": 101}, {"1": True}, {"1": None}, {"a": 1}, [1], 5),
    *of("logit_bias", {"9" * 5000: 1}, {"": 1}, {"٣": 1}),
    *of("bad_words", "", [""], [5], ["x"] * 9999, {}),
    *of("prompt_logprobs", -1, 21, 2**64, True),
    *of("priority", 2**31, -(2**31), True, "1"),
    *of("cache_salt", "", 5),
    *((name, 1.5) for name in ("stream", "ignore_eos", "skip_special_tokens", "return_token_ids")),
    ("include_stop_str_in_output", "x"),
    ("add_special_tokens", "yes please"),
    ("user", 5),
    ("stream_options", {"include_usage": True}),
]

PER_ROUTE: list[tuple[str, str, Any]] = [
    *on(COMPLETIONS, "suffix", "x", 5),
    *on(COMPLETIONS, "logprobs", -1, -2, 21, 2**64, True),
    *on(COMPLETIONS, "prompt", 5, True, {}, [], [[]], [{}], [True], [1.5], [[1, "a"]]),
    *on(COMPLETIONS, "prompt", [-1], [VOCAB_SIZE], [2**31], [2**64], [[HUGE]]),
    *on(COMPLETIONS, "prompt", "a" * 600, ["a"] * 257, None, ["a", None]),
    (COMPLETIONS, "max_tokens", 0),
    (COMPLETIONS, "echo", "yes please"),
    *on(CHATS, "logprobs", 5, "x"),
    *on(CHATS, "messages", [], None, {}, "hi"),
    (CHATS, "functions", [{"type": "function"}]),
    *on(CHATS, "tools", {}, "x", [{"type": "function", "function": {"name": "f"}}]),
    *((CHATS, name, "required") for name in ("tool_choice", "function_call")),
    *on(CHATS, "tool_choice", 1, {}, "any", {"type": "function", "function": {"name": "f"}}),
    *on(CHATS, "thinking_token_budget", -1, "few", 2**40, 100),
    (CHATS, "reasoning_effort", "huge"),
    *((CHATS, name, "high") for name in ("reasoning_effort", "reasoning", "verbosity", "chat_template")),
    (CHATS, "web_search_options", {}),
    (CHATS, "modalities", ["text", "audio"]),
    (CHATS, "audio", {"voice": "x"}),
    (CHATS, "prediction", {"type": "content"}),
    (CHATS, "documents", [{}]),
    (CHATS, "echo", True),
    (CHATS, "max_tokens", 0),
    (CHATS, "top_logprobs", 1),
    (CHATS, "max_completion_tokens", 3),
    *on(CHATS, "chat_template_kwargs", [1], "x", {"chat_template": "{{ 1 }}"}),
]


@pytest.mark.parametrize("path", START)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_value_is_400_and_names_its_field(
    client: TestClient, refused: Post, engine: FakeEngine, path: str, stream: bool
) -> None:
    for name, value in INVALID:
        if stream and name in ("stream", "stream_options"):
            continue
        error = refused(path, START[path] | {"stream": stream} | {name: value})
        assert str(error["param"]).split(".")[0] == name, (name, value, error)
        assert error["type"] == "invalid_request_error"
    assert engine.running == 0


def test_a_bad_value_of_one_route(refused: Post) -> None:
    for path, name, value in PER_ROUTE:
        assert refused(path, START[path] | {name: value})["param"] == name, (name, value)


@pytest.mark.parametrize("path", [CHATS, "/tokenize"])
@pytest.mark.parametrize("name", sorted(RESERVED_VARIABLES))
def test_template_arguments_do_not_reach_the_engines_own(refused: Post, path: str, name: str) -> None:
    body = {"messages": START[CHATS]["messages"], "chat_template_kwargs": {name: []}}
    assert refused(path, body)["param"] == "chat_template_kwargs"


def test_more_logprobs_than_the_engine_gives(refused: Post) -> None:
    for value in (21, -1, -5, 2**64, True):
        body = START[CHATS] | {"logprobs": True, "top_logprobs": value}
        assert refused(CHATS, body)["param"] == "top_logprobs"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("top_logprobs", 21, "top_logprobs is 21, out of range: 0 to 20"),
        ("reasoning_effort", "lots", "reasoning_effort is 'lots': it must be one of: none, minimal"),
        ("guided_whitespace_pattern", " ", "goes with guided_json"),
        ("early_stopping", "soon", "valid boolean; Input should be 'never', got \"soon\"."),
    ],
)
def test_the_value_and_what_would_do_are_named(refused: Post, field: str, value: Any, says: str) -> None:
    error = refused(CHATS, START[CHATS] | {"logprobs": True, field: value})
    assert says in error["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guided_choice", ["a"]),
        ("structured_outputs", {"choice": ["a"]}),
        ("response_format", {"type": "json_object"}),
    ],
)
def test_a_form_beside_beams_is_refused_by_the_clients_name(refused: Post, name: str, value: Any) -> None:
    error = refused(CHATS, START[CHATS] | {"use_beam_search": True, "n": 2, name: value})
    assert error["param"] == name
    assert error["message"].startswith(f"{name} goes not with use_beam_search")


def test_the_limit_is_named_as_the_client_named_it(
    client: TestClient, refused: Post, settings: ServeConfig
) -> None:
    app: Any = client.app
    app.state.service.settings = settings.model_copy(update={"max_tokens_cap": 5})
    body = {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 6}
    error = refused(CHATS, body)
    assert error["param"] == "max_completion_tokens"
    assert error["message"].startswith("max_completion_tokens is 6")


def test_more_tokens_wanted_than_the_server_allows(
    client: TestClient, refused: Post, settings: ServeConfig
) -> None:
    app: Any = client.app
    app.state.service.settings = settings.model_copy(update={"default_max_tokens": 5})
    body = {"messages": [{"role": "user", "content": "hi"}], "min_tokens": 6}
    assert refused(CHATS, body)["param"] == "min_tokens"


def test_a_chat_that_is_too_long_says_so(refused: Post) -> None:
    error = refused(CHATS, {"messages": [{"role": "user", "content": "a" * 600}]})
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")


@pytest.mark.parametrize("path", START)
@pytest.mark.parametrize(
    "harmless",
    [
        {"length_penalty": 1.0, "use_beam_search": False, "spaces_between_special_tokens": True},
        {"length_penalty": 1, "early_stopping": False, "store": False, "service_tier": "auto"},
        {"response_format": {"type": "text"}, "n": 1, "best_of": 1, "logits_processors": []},
        {"user": "me", "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "y"},
        {"guided_json": None, "structured_outputs": None, "truncate_prompt_tokens": None},
        {"stream_options": None, "logit_bias": {}, "stop": [], "bad_words": [], "stop_token_ids": []},
        {"temperature": None, "n": None, "seed": -1, "top_k": -1, "max_tokens": None},
        {"nobody_knows_this": [1, {"a": 2}]},
    ],
)
def test_what_asks_for_nothing_passes(client: TestClient, path: str, harmless: dict[str, Any]) -> None:
    assert client.post(path, json=START[path] | harmless).status_code == 200


def test_chat_fields_that_ask_for_nothing_pass(chat: Post) -> None:
    chat(tools=[], tool_choice="none", functions=[], function_call="auto", parallel_tool_calls=True)
    chat(modalities=["text"], verbosity="medium", include_reasoning=True, echo=False, reasoning_effort=None)
    chat(top_logprobs=0, max_completion_tokens=4, chat_template_kwargs={"enable_thinking": False})


def test_an_unknown_field_is_refused_in_strict_mode(
    client: TestClient, refused: Post, settings: ServeConfig
) -> None:
    app: Any = client.app
    app.state.service.settings = settings.model_copy(update={"strict": True})
    for path, body in START.items():
        assert refused(path, body | {"guidedjson": 1})["param"] == "guidedjson"


@pytest.mark.parametrize(
    "options", [{"include_usage": 5}, {"include_obfuscation": True}, {"unknown": 1}, [True], 5]
)
def test_stream_options(refused: Post, options: Any) -> None:
    body = START[COMPLETIONS] | {"stream": True, "stream_options": options}
    assert str(refused(COMPLETIONS, body)["param"]).startswith("stream_options")


@pytest.mark.parametrize("path", START)
def test_an_unknown_model_is_404(refused: Post, path: str) -> None:
    assert refused(path, START[path] | {"model": "gpt"}, 404)["code"] == "model_not_found"


@pytest.mark.parametrize("path", START)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b'"x"', b"null", b"\xff", b"[" * 5000])
def test_what_is_no_json_object_is_4xx(client: TestClient, path: str, body: bytes) -> None:
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400


@pytest.mark.parametrize(
    "many",
    [
        {"prompt": ["a"] * 100_000},
        {"stop": ["a"] * 100_000},
        {"stop_token_ids": ["a"] * 100_000},
        {"logit_bias": {str(i): 1 for i in range(100_000)}},
        {"bad_words": [1] * 100_000},
        {"n": 10**9},
        {"logprobs": 10**9},
    ],
)
def test_a_refusal_allocates_little_more_than_the_body(client: TestClient, many: dict[str, Any]) -> None:
    body = START[COMPLETIONS] | many
    assert client.post(COMPLETIONS, json=body).status_code == 400
    tracemalloc.start()
    try:
        assert client.post(COMPLETIONS, json=body).status_code == 400
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * 2**20


@pytest.mark.parametrize("path", START)
@pytest.mark.parametrize(
    ("field", "param"),
    [(b'"temperature": 1e999', "temperature"), (b'"min_p": NaN', None), (b'"cache_salt": "\\ud800"', None)],
)
def test_numbers_and_texts_beyond_what_json_can_say(
    client: TestClient, path: str, field: bytes, param: str | None
) -> None:
    body = b'{"prompt": "a", "messages": [{"role": "user", "content": "a"}], ' + field + b"}"
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
