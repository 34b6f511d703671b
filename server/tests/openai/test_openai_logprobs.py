"""Log probabilities in both forms, from entries that a fake engine does not give."""

from __future__ import annotations

import math

from quire import Logprob
from quire_server.openai.logprobs import LOWEST, CompletionLogprobs, chat_logprobs, prompt_logprobs

PART = "\ufffd"


def test_a_chosen_token_beyond_the_top_stands_beside_them() -> None:
    entry = {7: Logprob(-5.0, 9, "g"), 1: Logprob(-0.5, 1, "a"), 2: Logprob(-1.0, 2, "b")}
    lists = CompletionLogprobs(2).take([7], [entry])
    assert lists["top_logprobs"] == [{"g": -5.0, "a": -0.5, "b": -1.0}]
    assert lists["token_logprobs"] == [-5.0]
    (one,) = chat_logprobs([7], [entry], 2)["content"]
    assert [top["token"] for top in one["top_logprobs"]] == ["a", "b"]


def test_more_than_was_asked_for_is_not_shown() -> None:
    """Echo and prompt_logprobs may make the engine give more for a prompt."""
    entry = {1: Logprob(-0.5, 1, "a"), 2: Logprob(-1.0, 2, "b"), 3: Logprob(-2.0, 3, "c")}
    assert CompletionLogprobs(1).take([1], [entry])["top_logprobs"] == [{"a": -0.5}]
    assert len(CompletionLogprobs(-1).take([1], [entry])["top_logprobs"][0]) == 3
    assert len(chat_logprobs([1], [entry], -1)["content"][0]["top_logprobs"]) == 3


def test_tokens_of_equal_text_are_told_apart_and_the_chosen_one_keeps_its_value() -> None:
    entry = {9: Logprob(-3.0, 3, PART), 5: Logprob(-0.1, 1, PART), 6: Logprob(-1.0, 2, PART)}
    lists = CompletionLogprobs(3).take([9], [entry])
    assert lists["top_logprobs"] == [{PART: -3.0, "token_id:5": -0.1, "token_id:6": -1.0}]


def test_parts_of_characters_have_no_bytes_that_are_not_theirs() -> None:
    (one,) = chat_logprobs([9], [{9: Logprob(-3.0, 1, PART)}], 0)["content"]
    assert one["bytes"] is None
    (one,) = chat_logprobs([9], [{9: Logprob(-3.0, 1, "ü")}], 0)["content"]
    assert one["bytes"] == [0xC3, 0xBC]


def test_what_is_impossible_has_a_number_that_json_can_say() -> None:
    entry = {9: Logprob(-math.inf, 3, "x")}
    assert CompletionLogprobs(0).take([9], [entry])["token_logprobs"] == [LOWEST]
    assert chat_logprobs([9], [entry], 1)["content"][0]["logprob"] == LOWEST
    assert prompt_logprobs([None, entry])[1] == {"9": {"logprob": LOWEST, "rank": 3, "decoded_token": "x"}}
