"""Answers of `/api/generate` and `/api/chat`: one object, or one per piece of news and a last one with the
counts. Durations are in nanoseconds.

Knows Ollama's answer form; knows no request and no HTTP.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from quire import CompletionOutput, Logprob
from quire.contracts import CallBegun, Content, Event, Reasoning
from quire_server.errors import ApiError, failed
from quire_server.service import Answered, AnswerParser, Generation, ToolCall

Kind = Literal["generate", "chat"]


def now() -> str:
    """The time, as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def render_error(error: ApiError) -> dict[str, Any]:
    """Ollama's error object. It has no place of its own for the field."""
    named = error.param is None or error.param in error.message
    return {"error": error.message if named else f"{error.param}: {error.message}"}


@dataclass(slots=True, kw_only=True)
class Answer:
    """The answer to one request.

    Attributes:
        kind: which of the two forms.
        model: as the client called it.
        logprobs: alternatives to tell per token, None for no log probabilities.
        started: `time.perf_counter_ns()` when the request came.
        parser: of the text; None for one that is nothing but content.
    """

    kind: Kind
    model: str
    logprobs: int | None = None
    started: int = field(default_factory=time.perf_counter_ns)
    parser: AnswerParser | None = None
    _first: int = 0
    _calls: int = 0

    def loaded(self) -> dict[str, Any]:
        """To a request without a prompt, which only asks for the model to be loaded."""
        return {**self._piece(Answered()), "done": True, "done_reason": "load"}

    async def whole(self, generation: Generation) -> dict[str, Any]:
        """All in one object.

        Raises:
            ApiError: the generation failed.
        """
        told = Answered()
        logprobs: list[dict[str, Any]] = []
        reason = "stop"
        async with generation:
            async for _, output in generation:
                one = output.outputs[0]
                reason = self._seen(one) or reason
                for event in self._read(one):
                    told.add(event, self._id(event))
                logprobs += self._logprobs(one)
        return {**self._piece(told, logprobs), **self._last(reason, generation)}

    async def lines(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Encoded objects, a line each. An error is the last of them. A call comes when it is complete."""
        reason = "stop"
        call = Answered()
        try:
            async for _, output in generation:
                one = output.outputs[0]
                reason = self._seen(one) or reason
                logprobs = self._logprobs(one)
                news = Answered()
                for event in self._read(one):
                    if isinstance(event, Content | Reasoning):
                        news.add(event)
                        continue
                    call.add(event, self._id(event))
                    if not call.open:  # ended, or given back as text
                        news.calls += call.calls
                        news.content += call.content
                        call = Answered()
                if news.content or news.reasoning or news.calls or logprobs:
                    yield _line({**self._piece(news, logprobs), "done": False})
        except ApiError as error:
            yield _line(render_error(error))
            return
        yield _line({**self._piece(Answered()), **self._last(reason, generation)})

    def _read(self, one: CompletionOutput) -> list[Event]:
        """What is new."""
        if self.parser is None:
            return [Content(one.text)] if one.text else []
        events = self.parser.feed(one.text, len(one.token_ids))
        return [*events, *self.parser.finish()] if one.finish_reason is not None else events

    def _id(self, event: Event) -> str:
        return self.parser.draw_id() if self.parser is not None and isinstance(event, CallBegun) else ""

    def _seen(self, one: CompletionOutput) -> str | None:
        """Note when the first token came.

        Returns:
            Why it ended, None while it runs.

        Raises:
            ApiError: 500, the engine ended it before its time.
        """
        self._first = self._first or time.perf_counter_ns()
        if one.finish_reason not in (None, "stop", "length"):
            raise failed("The engine ended the request before its end.")
        return one.finish_reason

    def _piece(self, told: Answered, logprobs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        thinking = {"thinking": told.reasoning} if told.reasoning else {}
        content: dict[str, Any] = {"response": told.content, **thinking}
        if self.kind == "chat":
            message: dict[str, Any] = {"role": "assistant", "content": told.content, **thinking}
            if told.calls:
                message["tool_calls"] = [self._call(call) for call in told.calls]
            content = {"message": message}
        more = {"logprobs": logprobs} if logprobs else {}
        return {"model": self.model, "created_at": now(), **content, **more}

    def _call(self, call: ToolCall) -> dict[str, Any]:
        index, self._calls = self._calls, self._calls + 1
        arguments = json.loads(call.arguments)
        return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}

    def _last(self, reason: str, generation: Generation) -> dict[str, Any]:
        end = time.perf_counter_ns()
        first = self._first or end
        return {
            "done": True,
            "done_reason": reason,
            "total_duration": end - self.started,
            "load_duration": 0,
            "prompt_eval_count": generation.usage.prompt_tokens,
            "prompt_eval_duration": first - self.started,
            "eval_count": generation.usage.completion_tokens,
            "eval_duration": end - first,
        }

    def _logprobs(self, one: CompletionOutput) -> list[dict[str, Any]]:
        if self.logprobs is None or one.logprobs is None:
            return []
        told = []
        for token, known in zip(one.token_ids, one.logprobs, strict=True):
            likely = sorted(known.values(), key=lambda each: each.rank or len(known) + 1)
            entry = _told(known[token])
            if self.logprobs:
                entry["top_logprobs"] = [_told(each) for each in likely[: self.logprobs]]
            told.append(entry)
        return told


def _told(one: Logprob) -> dict[str, Any]:
    text = one.decoded_token or ""
    return {"token": text, "logprob": max(one.logprob, -9999.0), "bytes": list(text.encode())}


def _line(found: dict[str, Any]) -> bytes:
    return msgspec.json.encode(found) + b"\n"
