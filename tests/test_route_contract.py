"""Every front end there is, by the suite that authors of others use."""

from __future__ import annotations

from typing import Any

import pytest

from quire_route_ollama.front_end import front_end as ollama
from quire_server.anthropic.front_end import front_end as anthropic
from quire_server.openai.front_end import front_end as openai
from quire_server.ops.front_end import front_end as ops
from quire_server.playground.front_end import front_end as playground
from quire_server.responses.front_end import front_end as responses
from quire_server.testing import Example, RouteSuite, Target
from quire_server.testing.route_rig import Rig

from .route_examples import ANTHROPIC, OLLAMA, OPENAI, RESPONSES


class TestOps(RouteSuite):
    @pytest.fixture
    def target(self) -> Target:
        return ops


class TestPlayground(RouteSuite):
    @pytest.fixture
    def target(self) -> Target:
        return playground


class TestOpenAI(RouteSuite):
    examples = OPENAI

    @pytest.fixture
    def target(self) -> Target:
        return openai

    def text(self, example: Example, answer: Any) -> str:
        parts = []
        for choice in answer["choices"]:
            chat = choice.get("message") or choice.get("delta")
            parts.append((chat.get("content") or "") if chat is not None else choice.get("text", ""))
        return "".join(parts)

    def usage(self, example: Example, answer: Any) -> tuple[int, int] | None:
        usage = answer.get("usage")
        return usage and (usage["prompt_tokens"], usage["completion_tokens"])


class TestResponses(RouteSuite):
    examples = RESPONSES

    @pytest.fixture
    def target(self) -> Target:
        return responses

    def text(self, example: Example, answer: Any) -> str:
        if "output" in answer:
            return str(answer["output"][0]["content"][0]["text"])
        return str(answer["delta"]) if answer["type"] == "response.output_text.delta" else ""

    def usage(self, example: Example, answer: Any) -> tuple[int, int] | None:
        usage = answer.get("response", answer).get("usage")
        return usage and (usage["input_tokens"], usage["output_tokens"])

    def failed(self, rig: Rig, event: Any) -> bool:
        return event["type"] == "response.failed" and bool(event["response"]["error"]["message"])


class TestAnthropic(RouteSuite):
    examples = ANTHROPIC

    @pytest.fixture
    def target(self) -> Target:
        return anthropic

    def text(self, example: Example, answer: Any) -> str:
        if answer["type"] == "message":
            return str(answer["content"][0]["text"])
        return str(answer["delta"]["text"]) if answer["type"] == "content_block_delta" else ""

    def usage(self, example: Example, answer: Any) -> tuple[int, int] | None:
        usage = answer.get("usage")
        return usage and (usage["input_tokens"], usage["output_tokens"])


class TestOllama(RouteSuite):
    examples = OLLAMA

    @pytest.fixture
    def target(self) -> Target:
        return ollama

    def text(self, example: Example, answer: Any) -> str:
        return str(answer["message"]["content"] if "message" in answer else answer["response"])

    def usage(self, example: Example, answer: Any) -> tuple[int, int] | None:
        return (answer["prompt_eval_count"], answer["eval_count"]) if answer["done"] else None
