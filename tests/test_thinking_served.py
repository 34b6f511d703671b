"""Budgets of thinking over HTTP: the bundled model with a template that opens the thinking."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import quire_models_tiny
from tests.live import LiveServer

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}</think>\n{% endif %}{% endif %}"
)
ASK: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Go."}],
    "temperature": 1.0,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    home = tmp_path_factory.mktemp("model")
    for file in (Path(quire_models_tiny.__file__).parent / "data").iterdir():
        shutil.copy(file, home)
    config = json.loads((home / "tokenizer_config.json").read_text())
    (home / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    settings = ("--served-model-name", "tiny", "--log-level", "warning", "--max-model-len", "1280")
    with LiveServer(*settings, model=str(home)) as live:
        yield live


def post(server: LiveServer, path: str, body: dict[str, Any]) -> Any:
    reply = server.client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("budget", [0, 5])
def test_chats(server: LiveServer, budget: int) -> None:
    body = ASK | {"seed": 3, "max_tokens": 60, "thinking_token_budget": budget, "return_token_ids": True}
    (choice,) = post(server, "/v1/chat/completions", body).json()["choices"]
    whole = (choice["message"].get("reasoning_content", ""), choice["message"]["content"])
    streamed = ["", ""]
    for event in events(post(server, "/v1/chat/completions", body | {"stream": True}).text):
        delta = event["choices"][0]["delta"]
        streamed[0] += delta.get("reasoning_content") or ""
        streamed[1] += delta.get("content") or ""
    assert tuple(streamed) == whole
    assert bool(whole[0]) == bool(budget)
    assert whole[1]
    end = post(server, "/tokenize", {"prompt": "</think>", "add_special_tokens": False}).json()["tokens"]
    assert choice["token_ids"][budget : budget + len(end)] == end


def test_messages(server: LiveServer) -> None:
    """At least 1024 tokens are budgeted there; the model would never end its thinking by itself."""
    body = ASK | {"max_tokens": 1080, "thinking": {"type": "enabled", "budget_tokens": 1024}, "top_k": 1}
    message = post(server, "/v1/messages", body).json()
    blocks: list[str] = []
    for event in events(post(server, "/v1/messages", body | {"stream": True}).text):
        if event["type"] == "content_block_start":
            blocks.append("")
        elif event["type"] == "content_block_delta":
            blocks[-1] += event["delta"].get("thinking", "") + event["delta"].get("text", "")
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert blocks == [message["content"][0]["thinking"], message["content"][1]["text"]]
    assert message["usage"]["output_tokens"] == 1080


def test_it_is_counted(server: LiveServer) -> None:
    name = "quire_thinking_ended_total"

    def ended() -> float:
        lines = server.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = ended()
    post(server, "/v1/chat/completions", ASK | {"max_tokens": 20, "thinking_token_budget": 1})
    deadline = time.monotonic() + 10
    while ended() == before and time.monotonic() < deadline:  # figures are up to a second old
        time.sleep(0.05)
    assert ended() == before + 1
