"""Completions, whole and streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire import SamplingParams
from quire_server.config import ServeConfig
from quire_server.testing import BOS, FakeEngine

Post = Callable[..., Any]
PATH = "/v1/completions"


def joined(parts: Iterable[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(parts))


def test_an_answer_has_everything_that_openai_gives(complete: Post) -> None:
    answer = complete(id="mine", request_id="mine")
    assert answer["id"].startswith("cmpl-")
    assert "mine" not in answer["id"]
    assert (answer["object"], answer["model"]) == ("text_completion", "fake")
    assert answer["created"] > 1_700_000_000
    assert answer["system_fingerprint"].startswith("fp_")
    assert answer["choices"] == [
        {"index": 0, "text": "abca", "logprobs": None, "finish_reason": "length", "stop_reason": None}
    ]
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 4,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["aba"]),
        (["ab", "c"], ["aba", "ccc"]),
        ([97, 98], ["aba"]),
        ([[97, 98], [99]], ["aba", "ccc"]),
    ],
)
def test_every_form_of_a_prompt(complete: Post, prompt: Any, texts: list[str]) -> None:
    answer = complete(prompt=prompt, max_tokens=3)
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))


def test_choices_of_one_prompt_stand_together(complete: Post) -> None:
    answer = complete(prompt=["a", "b"], n=2, max_tokens=2)
    assert [choice["text"] for choice in answer["choices"]] == ["aa", "aa", "bb", "bb"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 8


def test_sixteen_tokens_unless_the_server_says_otherwise(
    client: TestClient, engine: FakeEngine, settings: ServeConfig
) -> None:
    client.post(PATH, json={"prompt": "a"})
    assert engine.params[-1].max_tokens == 16
    app: Any = client.app
    for change, expected in (({"max_tokens_cap": 5}, 5), ({"default_max_tokens": 7}, 7)):
        app.state.service.settings = settings.model_copy(update=change)
        assert client.post(PATH, json={"prompt": "a"}).status_code == 200
        assert engine.params[-1].max_tokens == expected


def test_stop_and_its_reason(complete: Post) -> None:
    choice = complete(stop=["c"], max_tokens=9)["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("ab", "stop", "c")


def test_logprobs_are_parallel_and_consistent(complete: Post) -> None:
    logprobs = complete(logprobs=2)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "c", "a"]
    assert logprobs["text_offset"] == [0, 1, 2, 3]
    for token, value, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert top[token] == value == max(top.values())
        assert len(top) == 2


def test_echo_with_logprobs_as_evaluation_harnesses_send_it(complete: Post) -> None:
    for most in (0, 1):
        answer = complete(prompt=[[97, 98, 99]], echo=True, logprobs=1, max_tokens=most, temperature=0)
        (choice,) = answer["choices"]
        logprobs = choice["logprobs"]
        assert choice["text"] == "abc" + "a" * most
        assert logprobs["tokens"] == list("abc" + "a" * most)
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert all(
            top[token] == value
            for token, value, top in list(
                zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
            )[1:]
        )
        assert answer["usage"]["completion_tokens"] == most
        assert choice["finish_reason"] == "length"


def test_offsets_point_into_the_text_whatever_stands_before_it(complete: Post) -> None:
    (choice,) = complete(prompt="abc", echo=True, logprobs=0, max_tokens=2)["choices"]
    logprobs = choice["logprobs"]
    assert logprobs["token_logprobs"][0] is None  # the BOS
    for token, offset in list(zip(logprobs["tokens"], logprobs["text_offset"], strict=True))[1:]:
        assert choice["text"][offset : offset + len(token)] == token
    (choice,) = complete(prompt=[97, 98], echo=True, logprobs=0, max_tokens=2)["choices"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]


def test_echo_gives_a_text_back_as_it_came(complete: Post) -> None:
    assert complete(echo=True, max_tokens=2)["choices"][0]["text"] == "abcab"
    assert complete(echo=True, max_tokens=0)["choices"][0]["text"] == "abc"


def test_ids_and_prompt_logprobs(complete: Post) -> None:
    (choice,) = complete(return_token_ids=True, prompt_logprobs=1, max_tokens=2)["choices"]
    assert choice["prompt_token_ids"] == [BOS, 97, 98, 99]
    assert choice["token_ids"] == [97, 98]
    assert choice["prompt_logprobs"][0] is None
    assert choice["prompt_logprobs"][1]["97"]["decoded_token"] == "a"
    assert choice["prompt_logprobs"][1]["97"]["rank"] == 1


def test_the_joined_stream_is_the_whole_answer(complete: Post, events: Post) -> None:
    body: dict[str, Any] = {
        "prompt": ["abc", [104, 105]],
        "max_tokens": 9,
        "n": 2,
        "logprobs": 1,
        "echo": True,
    }
    whole = complete(**body, return_token_ids=True)
    chunks = events(PATH, **body, return_token_ids=True, stream_options={"include_usage": True})
    last = chunks.pop()
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert {chunk["usage"] for chunk in chunks} == {None}
    for choice in whole["choices"]:
        mine = [one["choices"][0] for one in chunks if one["choices"][0]["index"] == choice["index"]]
        assert "".join(one["text"] for one in mine) == choice["text"]
        assert joined(one["token_ids"] for one in mine) == choice["token_ids"]
        assert mine[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        for name, values in choice["logprobs"].items():
            assert joined(one["logprobs"][name] for one in mine) == values
        assert [one["finish_reason"] for one in mine] == [None] * (len(mine) - 1) + ["length"]


def test_a_streamed_echo_of_nothing_new(events: Post) -> None:
    chunks = events(
        PATH, prompt="abc", echo=True, max_tokens=0, logprobs=0, stream_options={"include_usage": True}
    )
    (choice,) = chunks[0]["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("abc", "length")
    assert len(choice["logprobs"]["tokens"]) == 4  # BOS too
    assert len(chunks) == 2
    assert chunks[1]["usage"]["completion_tokens"] == 0


def test_usage_in_every_chunk(events: Post) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events(PATH, prompt="abc", max_tokens=3, stream_options=options)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]


def test_a_stream_that_was_not_asked_for_usage_has_none(events: Post) -> None:
    chunks = events(PATH, prompt="abc", max_tokens=3)
    assert len(chunks) == 3
    assert all("usage" not in chunk for chunk in chunks)


def test_an_error_in_a_stream_is_its_last_event(engine: FakeEngine, events: Post) -> None:
    engine.fail_after = 2
    chunks = events(PATH, prompt="abc", max_tokens=5)
    assert [one["choices"][0]["text"] for one in chunks[:-1]] == ["a", "b"]
    assert chunks[-1]["error"]["code"] == "engine_error"


def test_best_of_gives_n_and_is_not_streamed(complete: Post, refused: Post, engine: FakeEngine) -> None:
    assert len(complete(best_of=3, n=2)["choices"]) == 2
    assert engine.params[-1].best_of == 3
    assert refused(PATH, {"prompt": "a", "best_of": 3, "stream": True})["param"] == "best_of"


def test_beams_are_searched_over_none_of_the_models_defaults(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, complete: Post, refused: Post
) -> None:
    defaults = SamplingParams(temperature=0.6, top_p=0.5, top_k=9, repetition_penalty=1.1)
    monkeypatch.setattr(engine, "get_default_sampling_params", lambda: defaults)
    fields: dict[str, Any] = {"use_beam_search": True, "best_of": 4, "n": 2, "length_penalty": 0.6}
    complete(**fields, early_stopping="never", max_tokens=3)
    assert engine.params[-1] == SamplingParams(
        **fields, early_stopping="never", temperature=0.0, max_tokens=3
    )
    body = {"prompt": "a", **fields}
    assert refused(PATH, {**body, "stream": True})["param"] == "use_beam_search"
    for name, value in {"temperature": 0.7, "top_p": 0.9, "stop": "x", "presence_penalty": 1.0}.items():
        assert refused(PATH, {**body, name: value})["param"] == name


def test_the_models_defaults_stand_under_the_request(
    monkeypatch: pytest.MonkeyPatch, engine: FakeEngine, complete: Post
) -> None:
    monkeypatch.setattr(engine, "get_default_sampling_params", lambda: SamplingParams(top_p=0.5, top_k=9))
    complete(top_k=3, top_p=None)
    assert (engine.params[-1].top_p, engine.params[-1].top_k) == (0.5, 3)


def test_every_sampling_field_arrives(complete: Post, engine: FakeEngine) -> None:
    fields: dict[str, Any] = {
        "n": 2,
        "best_of": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "frequency_penalty": 0.25,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.5,
        "seed": 7,
        "stop": ["zz"],
        "stop_token_ids": [5],
        "bad_words": ["q"],
        "allowed_token_ids": [97, 98],
        "ignore_eos": True,
        "min_tokens": 1,
        "max_tokens": 3,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
    }
    complete(**fields, logit_bias={"97": 1.5}, cache_salt="s", priority=3, add_special_tokens=False)
    params = engine.params[-1]
    assert {name: getattr(params, name) for name in fields} == fields
    assert params.logit_bias == {97: 1.5}
    assert engine.prompts[-1] == {"prompt": "abc", "cache_salt": "s"}


def test_aliases_answer_under_their_own_name(complete: Post) -> None:
    assert complete(model="org/alias")["model"] == "org/alias"
