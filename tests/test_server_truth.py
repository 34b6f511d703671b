"""What the server says is true: cached prefixes, joined streams, seeds, limits and log probabilities.

All over HTTP against one real server of two API processes, whose KV pool is just as large as the longest
sequence; and once beside the same model in this process.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from quire import LLM, SamplingParams

from .live import LiveServer

pytestmark = pytest.mark.slow

POOL = ("--kv-cache-memory-bytes", "2MiB")
TEXT = (
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\n\n"
)
LETTERS = "é漢字😀ßñ→ü日本語\u200dΩ"
HOT = {"temperature": 1.3, "ignore_eos": True}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("--dtype", "float32", "--api-workers", "2", "--max-num-seqs", "8", *POOL) as live:
        yield live


@pytest.fixture(scope="module")
def length(server: LiveServer) -> int:
    """The longest sequence, in tokens."""
    return int(server.client.get("/v1/models").json()["data"][0]["max_model_len"])


def afresh(server: LiveServer, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Ask over a connection of its own, which may end at either API process."""
    return httpx.post(server.url + path, json=body, headers={**server.client.headers, **headers}, timeout=60)


def completed(server: LiveServer, prompt: Any, **fields: Any) -> dict[str, Any]:
    answer = afresh(
        server, "/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": 24, **fields}
    )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def text_of(body: dict[str, Any]) -> str:
    return str(body["choices"][0]["text"])


def chunks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


@contextlib.contextmanager
def streaming(
    server: LiveServer, path: str, body: dict[str, Any], **headers: str
) -> Iterator[Iterator[dict[str, Any]]]:
    ask = {"model": "tiny", **body, "stream": True}
    headers = {**dict(server.client.headers), **headers}
    with httpx.stream("POST", server.url + path, json=ask, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        yield chunks(answer.iter_lines())


def joined(server: LiveServer, path: str, body: dict[str, Any]) -> str:
    """The text of a stream. Every event of it is Unicode by itself, as JSON is."""
    with streaming(server, path, body) as events:
        choices = [choice for event in events for choice in event["choices"]]
    return "".join(one["text"] if "text" in one else one["delta"].get("content") or "" for one in choices)


@pytest.fixture(scope="module")
def letter_ids(server: LiveServer) -> list[int]:
    """Tokens of which characters of several bytes are made, whole and in parts."""
    found = server.client.post("/tokenize", json={"prompt": LETTERS, "add_special_tokens": False}).json()
    return sorted(set(found["tokens"]))


# Prefix cache


def cached(server: LiveServer, prompt: str, salt: str | None) -> int:
    body = completed(server, prompt, max_tokens=1, **({} if salt is None else {"cache_salt": salt}))
    return int(body["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_a_salt_never_finds_anothers_prefix(server: LiveServer) -> None:
    prompt = "# one\n" + TEXT * 2
    assert cached(server, prompt, "A") == 0
    assert (own := cached(server, prompt, "A")) > 0
    for salt in ("B", "a", "A ", "AA", None, "A\u0000"):
        assert cached(server, prompt, salt) == 0, salt
        assert cached(server, prompt, salt) == own, salt
        assert cached(server, prompt, "A") == own


def test_a_salt_binds_chats_as_well(server: LiveServer) -> None:
    def ask(salt: str) -> int:
        messages = [{"role": "user", "content": "# chat\n" + TEXT * 2}]
        body = {"model": "tiny", "messages": messages, "max_tokens": 1, "cache_salt": salt}
        usage = afresh(server, "/v1/chat/completions", body).json()["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert [ask("A"), ask("A") > 0, ask("B"), ask("B") > 0] == [0, True, 0, True]


def test_a_cached_prefix_changes_no_answer(server: LiveServer) -> None:
    prompt = "# same\n" + TEXT * 2
    answers = [completed(server, prompt, temperature=0, cache_salt=salt) for salt in ("x", "x", "y", "x")]
    assert len({text_of(one) for one in answers}) == 1


# Streams


@pytest.mark.parametrize("seed", range(4))
def test_joined_streams_of_characters_in_pieces_equal_the_whole(
    server: LiveServer, letter_ids: list[int], seed: int
) -> None:
    fields = {**HOT, "seed": seed, "allowed_token_ids": letter_ids, "max_tokens": 40}
    whole = text_of(completed(server, LETTERS, **fields))
    assert any(ord(char) > 0x7F for char in whole)
    assert joined(server, "/v1/completions", {"prompt": LETTERS, **fields}) == whole
    chat = {"messages": [{"role": "user", "content": LETTERS}], "model": "tiny", **fields}
    content = afresh(server, "/v1/chat/completions", chat).json()["choices"][0]["message"]["content"]
    assert joined(server, "/v1/chat/completions", chat) == content


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("script", ["letters", "code"])
def test_stop_strings_cut_streams_and_whole_answers_alike(
    server: LiveServer, letter_ids: list[int], script: str, seed: int, kept: bool
) -> None:
    fields: dict[str, Any] = {**HOT, "seed": seed, "max_tokens": 40, "include_stop_str_in_output": kept}
    if script == "letters":
        fields["allowed_token_ids"] = letter_ids
    plain = text_of(completed(server, TEXT, **fields))
    for at in (1, len(plain) // 2, len(plain) - 4):
        stop = plain[at : at + 3]
        if "\ufffd" in plain[: at + 3]:
            continue  # a character that is not whole yet: what stands for it may still change
        end = plain.index(stop)
        expected = plain[: end + len(stop)] if kept else plain[:end]
        body = completed(server, TEXT, **fields, stop=[stop, "never this"])
        assert text_of(body) == expected
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["choices"][0]["stop_reason"] == stop
        assert joined(server, "/v1/completions", {"prompt": TEXT, **fields, "stop": [stop]}) == expected


# Seeds, names, company


def test_a_seed_gives_the_same_answer_in_every_process_and_any_company(server: LiveServer) -> None:
    def ask(seed: int) -> tuple[int, str]:
        return seed, text_of(completed(server, TEXT, **HOT, seed=seed))

    alone = dict(ask(seed) for seed in range(3))
    assert len(set(alone.values())) == 3
    with ThreadPoolExecutor(6) as pool:
        for seed, text in pool.map(ask, [0, 1, 2] * 6):
            assert text == alone[seed]


def test_requests_of_one_name_do_not_mix(server: LiveServer) -> None:
    def ask(seed: int) -> str:
        body = {"model": "tiny", "prompt": f"# {seed}\n{TEXT}", "max_tokens": 24, **HOT, "seed": seed}
        answer = afresh(server, "/v1/completions", body, **{"X-Request-Id": "the-same"})
        assert answer.headers["x-request-id"] == "the-same"
        return text_of(answer.json())

    alone = [ask(seed) for seed in range(6)]
    assert len(set(alone)) == 6
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == alone


def test_hanging_up_on_one_leaves_the_other_of_its_name(server: LiveServer) -> None:
    body = {"prompt": TEXT, "max_tokens": 150, **HOT, "seed": 5}
    expected = joined(server, "/v1/completions", body)
    named = {"X-Request-Id": "the-same"}
    with streaming(server, "/v1/completions", body, **named) as kept:
        text = next(kept)["choices"][0]["text"]
        with streaming(server, "/v1/completions", {**body, "seed": 6}, **named) as left:
            next(left)
        text += "".join(choice["text"] for event in kept for choice in event["choices"])
    assert text == expected


# Limits


@pytest.mark.parametrize("over", [-1, 0, 1, 100_000])
def test_a_prompt_is_refused_from_the_context_on(server: LiveServer, length: int, over: int) -> None:
    """The longest sequence fills the pool: one token less leaves room for one new token."""
    ids = [(7 * place) % 4000 + 1 for place in range(length + over)]
    answer = afresh(
        server, "/v1/completions", {"model": "tiny", "prompt": ids, "max_tokens": 5, "ignore_eos": True}
    )
    if over < 0:
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 1
        assert answer.json()["choices"][0]["finish_reason"] == "length"
    else:
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "prompt")
        assert error["code"] == "context_length_exceeded"
        assert str(length) in error["message"]


def test_several_of_the_longest_prompts_take_turns(server: LiveServer, length: int) -> None:
    prompts = [[first, *([9] * (length - 5))] for first in (5, 6, 7)]
    body = completed(server, prompts, max_tokens=4, ignore_eos=True)
    assert [one["finish_reason"] for one in body["choices"]] == ["length"] * 3
    assert body["usage"]["prompt_tokens"] == 3 * (length - 4)


@pytest.mark.parametrize("token", [-1, 4096, 2**31 - 1, 2**31, 2**32, 2**63, 2**64])
def test_token_ids_that_do_not_exist(server: LiveServer, token: int) -> None:
    for fields in (
        {"prompt": [1, token]},
        {"stop_token_ids": [token]},
        {"allowed_token_ids": [token]},
        {"logit_bias": {str(token): 1}},
    ):
        answer = afresh(server, "/v1/completions", {"model": "tiny", "prompt": "x", **fields})
        assert answer.status_code == 400, fields
        assert answer.json()["error"]["param"] == next(iter(fields))
    assert afresh(server, "/v1/completions", {"model": "tiny", "prompt": [1, 4095]}).status_code == 200


@pytest.mark.parametrize(
    "kwargs",
    [
        {"chat_template": "{{ 1 }}"},
        {"messages": []},
        {"add_generation_prompt": True},
        {"tools": 1},
        {"documents": [1]},
        {"bos_token": "<evil>"},
        {"raise_exception": 1},
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_template_arguments_cannot_reach_the_renderer(
    server: LiveServer, path: str, kwargs: dict[str, Any]
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "tiny", "messages": messages, "chat_template_kwargs": kwargs}
    answer = afresh(server, path, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] in ("chat_template_kwargs", "tools", "documents")


@pytest.mark.parametrize("name", ["tokenizer", "renderer", "template", "self", "environment"])
def test_other_names_are_variables_that_the_template_does_not_know(server: LiveServer, name: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    given = {**body, "chat_template_kwargs": {name: {"chat_template": "{{ 7 * 191 }}", "render": 1}}}
    plain, other = (afresh(server, "/tokenize", one) for one in (body, given))
    assert other.status_code == 200, other.text
    assert other.json()["tokens"] == plain.json()["tokens"]


# Log probabilities


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", dtype="float32", kv_cache_memory_bytes="2MiB", show_progress=False) as llm:
        yield llm


@pytest.mark.parametrize("prompt", [TEXT, LETTERS, "x", "import os\n" + TEXT * 3])
def test_echoed_log_probabilities_are_those_of_the_model(server: LiveServer, llm: LLM, prompt: str) -> None:
    body = completed(server, prompt, max_tokens=0, echo=True, logprobs=3, temperature=0)
    found = body["choices"][0]["logprobs"]
    (output,) = llm.generate(prompt, SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=3))
    assert output.prompt_logprobs is not None
    ids = output.prompt_token_ids
    assert body["choices"][0]["text"] == prompt
    assert len(found["tokens"]) == len(found["top_logprobs"]) == len(ids)
    assert found["token_logprobs"][0] is None
    expected = [
        entry[token].logprob
        for token, entry in zip(ids[1:], output.prompt_logprobs[1:], strict=True)
        if entry
    ]
    assert found["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    for said, entry in zip(found["top_logprobs"][1:], output.prompt_logprobs[1:], strict=True):
        assert entry is not None
        best = max(one.logprob for one in entry.values())
        assert max(said.values()) == pytest.approx(best, abs=1e-4)


def test_whole_and_streamed_log_probabilities_are_the_same(server: LiveServer) -> None:
    fields: dict[str, Any] = {"prompt": TEXT, "temperature": 0, "logprobs": 2, "echo": True, "max_tokens": 12}
    whole = completed(server, **fields)["choices"][0]["logprobs"]
    with streaming(server, "/v1/completions", fields) as events:
        parts = [choice["logprobs"] for event in events for choice in event["choices"] if choice["logprobs"]]
    for name in ("tokens", "text_offset"):
        assert [item for part in parts for item in part[name]] == whole[name]
    values = [item for part in parts for item in part["token_logprobs"]]
    assert values[1:] == pytest.approx(whole["token_logprobs"][1:], abs=1e-4)


# Beams


def test_choices_of_a_beam_search_are_those_of_the_model_best_first(server: LiveServer, llm: LLM) -> None:
    fields: dict[str, Any] = {"n": 2, "best_of": 4, "length_penalty": 0.6, "early_stopping": "never"}
    body = completed(server, [TEXT, "import "], use_beam_search=True, logprobs=1, **fields)
    params = SamplingParams(use_beam_search=True, logprobs=1, max_tokens=24, **fields)
    expected = [one for output in llm.generate([TEXT, "import "], params) for one in output.outputs]
    assert [choice["text"] for choice in body["choices"]] == [one.text for one in expected]
    assert [choice["finish_reason"] for choice in body["choices"]] == [one.finish_reason for one in expected]
    for choice, one in zip(body["choices"], expected, strict=True):
        assert sum(choice["logprobs"]["token_logprobs"]) == pytest.approx(one.cumulative_logprob, abs=1e-3)
    assert body["usage"]["completion_tokens"] == sum(len(one.token_ids) for one in expected)

    messages = [{"role": "user", "content": "hi"}]
    asked = {"messages": messages, "max_tokens": 5, "use_beam_search": True, "n": 3, "temperature": 0}
    answer = afresh(server, "/v1/chat/completions", asked)
    assert answer.status_code == 200, answer.text
    assert len({choice["message"]["content"] for choice in answer.json()["choices"]}) == 3
    refused = afresh(server, "/v1/chat/completions", {**asked, "stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "use_beam_search")
