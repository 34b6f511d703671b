"""Answers of `/api/generate` and `/api/chat`: one object, or one per piece of news and a last one with the
counts. Durations are in nanoseconds.

Knows Ollama's answer form; knows no request and no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from quire import CompletionOutput, Logprob
from quire_server.errors import ApiError, failed
from quire_server.service import Generation

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
    """

    kind: Kind
    model: str
    logprobs: int | None = None
    started: int = field(default_factory=time.perf_counter_ns)
    _first: int = 0

    def loaded(self) -> dict[str, Any]:
        """To a request without a prompt, which only asks for the model to be loaded."""
        return {**self._piece(""), "done": True, "done_reason": "load"}

    async def whole(self, generation: Generation) -> dict[str, Any]:
        """All in one object.

        Raises:
            ApiError: the generation failed.
        """
        texts: list[str] = []
        logprobs: list[dict[str, Any]] = []
        reason = "stop"
        async with generation:
            async for _, output in generation:
                one = output.outputs[0]
                reason = self._seen(one) or reason
                texts.append(one.text)
                logprobs += self._logprobs(one)
        piece = self._piece("".join(texts), logprobs)
        return {**piece, **self._last(reason, generation)}

    async def lines(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        """Encoded objects, a line each. An error is the last of them."""
        reason = "stop"
        try:
            async for _, output in generation:
                one = output.outputs[0]
                reason = self._seen(one) or reason
                logprobs = self._logprobs(one)
                if one.text or logprobs:
                    yield _line({**self._piece(one.text, logprobs), "done": False})
        except ApiError as error:
            yield _line(render_error(error))
            return
        yield _line({**self._piece(""), **self._last(reason, generation)})

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

    def _piece(self, text: str, logprobs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        content: dict[str, Any] = (
            {"response": text}
            if self.kind == "generate"
            else {"message": {"role": "assistant", "content": text}}
        )
        told = {"logprobs": logprobs} if logprobs else {}
        return {"model": self.model, "created_at": now(), **content, **told}

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
