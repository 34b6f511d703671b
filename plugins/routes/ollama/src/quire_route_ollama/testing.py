"""Ollama's chats as tests of tools speak them."""

from __future__ import annotations

import json
from typing import Any

from quire_server.testing.tool_dialect import Asked, Reply, ToolDialect

__all__ = ["OllamaTools"]


class OllamaTools(ToolDialect):
    """Calls come in one piece, and an answer with calls ends as any does."""

    path = "/api/chat"
    streams_arguments = False
    called, cut = "stop", "length"

    def body(self, asked: Asked) -> dict[str, Any]:
        """See `ToolDialect`."""
        choice: Any = asked.choice
        if asked.named is not None:
            choice = {"type": "function", "function": {"name": asked.named}}
        functions = [
            {"name": tool.name, "parameters": dict(tool.parameters), "strict": tool.strict}
            for tool in asked.tools
        ]
        return {
            "model": "fake",
            "messages": [{"role": "user", "content": "Rome?"}],
            "tools": [{"type": "function", "function": one} for one in functions],
            "tool_choice": choice,
            "parallel_tool_calls": asked.parallel,
            "stream": False,
            "logprobs": asked.logprobs,
            "options": {
                "num_predict": asked.max_tokens,
                "temperature": asked.temperature,
                "seed": asked.seed,
            },
        }

    def whole(self, answer: Any) -> list[Reply]:
        """See `ToolDialect`."""
        reply = Reply()
        _add(reply, answer)
        return [reply]

    def streamed(self, text: str) -> list[Reply]:
        """See `ToolDialect`."""
        reply = Reply()
        for line in text.splitlines():
            _add(reply, json.loads(line))
        return [reply]


def _add(reply: Reply, piece: dict[str, Any]) -> None:
    message = piece["message"]
    reply.content += message["content"]
    reply.reasoning += message.get("thinking", "")
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    reply.calls += [(one["name"], one["arguments"]) for one in functions]
    reply.tokens += [one["token"] for one in piece.get("logprobs") or ()]
    reply.ended = piece.get("done_reason", reply.ended)
