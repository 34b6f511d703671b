"""Answers in Anthropic's form: the message, whole or as the sequence of events that makes it up.

`message_start, ping`, then per block `content_block_start, content_block_delta ..., content_block_stop`,
then `message_delta, message_stop`. Where there can be nothing but text, its block starts before the ping.
Knows neither the request's body nor HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from quire import CompletionOutput
from quire_server.anthropic.blocks import Blocks
from quire_server.anthropic.errors import render_error
from quire_server.errors import ApiError, failed
from quire_server.service import Generation, OpenedChat, Usage


class Answer:
    """One message.

    Args:
        model: served name of the model.
        generation: of one prompt, with deltas.
        max_tokens: most tokens that were asked for.
        opened: the chat, which knows what its answers may hold.
    """

    def __init__(self, model: str, generation: Generation, max_tokens: int, opened: OpenedChat) -> None:
        self._model = model
        self._generation = generation
        self._max_tokens = max_tokens
        self._id = f"msg_{secrets.token_hex(12)}"
        self._blocks = Blocks(opened.parser())
        self._opened = opened

    async def whole(self) -> dict[str, Any]:
        """The message once it is complete.

        Raises:
            ApiError: the generation failed.
        """
        stop: dict[str, Any] = {}
        async with self._generation as generation:
            async for _, output in generation:
                one = output.outputs[0]
                self._blocks.take(one)
                stop = self._stop(one)
        content = self._blocks.content() or [{"type": "text", "text": ""}]
        return {**self._message(content), **stop, "usage": _usage(self._generation.usage)}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Encoded events. The first follows the first token, as it tells how long the prompt was."""
        started = False
        stop: dict[str, Any] = {}
        blocks = self._blocks
        try:
            async for _, output in self._generation:
                if not started:
                    started = True
                    yield self._start()
                    if not self._opened.parses:  # then it is known to be text
                        yield _event("content_block_start", **blocks.begin_text())
                    yield _event("ping")
                one = output.outputs[0]
                for kind, fields in blocks.take(one):
                    yield _event(kind, **fields)
                stop = self._stop(one)
        except ApiError as error:
            yield _encode("error", render_error(error))
            return
        for kind, fields in blocks.end():
            yield _event(kind, **fields)
        yield _event("message_delta", delta=stop, usage=_usage(self._generation.usage))
        yield _event("message_stop")

    def _start(self) -> bytes:
        usage = {**_usage(self._generation.usage), "output_tokens": 0}
        return _event("message_start", message={**self._message([]), "usage": usage})

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _stop(self, one: CompletionOutput) -> dict[str, Any]:
        """Why it ended; nothing while it runs.

        Raises:
            ApiError: 500, the engine ended it before its time.
        """
        if one.finish_reason is None:
            return {}
        if one.finish_reason == "length":
            full = self._generation.usage.completion_tokens < self._max_tokens
            return {
                "stop_reason": "model_context_window_exceeded" if full else "max_tokens",
                "stop_sequence": None,
            }
        if one.finish_reason != "stop":
            raise failed("The engine ended the request before its end.")
        if isinstance(one.stop_reason, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": one.stop_reason}
        return {"stop_reason": "tool_use" if self._blocks.called else "end_turn", "stop_sequence": None}


def _usage(usage: Usage) -> dict[str, Any]:
    """Tokens; those found in the prefix cache are counted apart from the others of the prompt."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _event(kind: str, **fields: Any) -> bytes:
    return _encode(kind, {"type": kind, **fields})


def _encode(kind: str, event: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"
