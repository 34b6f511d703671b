"""Tokens, models and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire_server.testing import BOS, MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine

Post = Callable[..., Any]
NO_TOKENS: list[Any] = [[-1], [VOCAB_SIZE], [2**31], [2**64], [True], [1.5], "a", None, {}]
HI = [{"role": "user", "content": "hi"}]


def test_a_prompt(client: TestClient) -> None:
    answer = client.post("/tokenize", json={"prompt": "ab"}).json()
    assert answer == {
        "count": 3,
        "max_model_len": MAX_MODEL_LEN,
        "tokens": [BOS, 97, 98],
        "token_strs": None,
    }
    plain = {"prompt": "ab", "add_special_tokens": False, "return_token_strs": True}
    answer = client.post("/tokenize", json=plain).json()
    assert (answer["tokens"], answer["token_strs"]) == ([97, 98], ["a", "b"])


def test_messages_are_what_a_chat_has(client: TestClient, chat: Post) -> None:
    answer = client.post("/tokenize", json={"messages": HI}).json()
    assert answer["tokens"] == chat(messages=HI, return_token_ids=True)["prompt_token_ids"]
    answer = client.post("/tokenize", json={"messages": HI, "add_generation_prompt": False}).json()
    assert bytes(answer["tokens"]) == b"user: hi\n"


def test_there_and_back(client: TestClient) -> None:
    ids = client.post("/tokenize", json={"prompt": "für", "add_special_tokens": False}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "für"}


def test_a_client_learns_of_the_special_tokens(client: TestClient) -> None:
    answer = client.get("/tokenizer_info").json()
    assert (answer["bos_token"], answer["eos_token"], answer["pad_token"]) == ("<bos>", "<eos>", None)
    assert answer["model_max_length"] == MAX_MODEL_LEN


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HI}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": HI, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"messages": HI, "tools": [{}]}, "tools[0].type"),
        ("/detokenize", {}, "tokens"),
        *(("/detokenize", {"tokens": tokens}, "tokens") for tokens in NO_TOKENS),
        ("/v1/embeddings", {"input": "a"}, "model"),
    ],
)
def test_refusals_name_the_field(refused: Post, path: str, body: Any, param: str) -> None:
    assert refused(path, body)["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/embeddings"])
def test_an_unknown_model_is_404(refused: Post, path: str) -> None:
    assert refused(path, {"model": "gpt", "prompt": "a", "tokens": [1]}, 404)["param"] == "model"


def test_embeddings_say_why_there_are_none(refused: Post) -> None:
    assert "no pooling head" in refused("/v1/embeddings", {"model": "fake", "input": ["a"]})["message"]


def test_models_are_listed_under_all_names(client: TestClient) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    assert [card["id"] for card in answer["data"]] == ["fake", "org/alias"]
    assert {card["max_model_len"] for card in answer["data"]} == {MAX_MODEL_LEN}
    assert client.get("/v1/models/org/alias").json() == answer["data"][1]
    assert client.get("/v1/models/org/other").status_code == 404


def test_models_are_listed_while_the_engine_is_down(client: TestClient, engine: FakeEngine) -> None:
    engine.health = "dead"
    assert client.get("/v1/models").status_code == 200
    assert client.post("/tokenize", json={"prompt": "a"}).status_code == 503
