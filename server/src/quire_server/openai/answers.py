"""What every answer of this dialect has: an id, the time, usage and a fingerprint; and how chunks are framed.

A chunk costs one small encoding: what all chunks of a stream share is encoded once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from quire import CompletionOutput, EngineInfo, RequestOutput, __version__
from quire_server.errors import ApiError, failed
from quire_server.front_end import openai_error
from quire_server.openai.fields import GenerationFields
from quire_server.service import Usage

DONE = b"data: [DONE]\n\n"

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the parts of one answer have in common.

    Attributes:
        id: drawn here; a client's own would be no key.
        kind: OpenAI's object name.
        created: Unix time in seconds.
        model: the name that the client asked for.
        fingerprint: of the model and the software.
    """

    id: str
    kind: str
    created: int
    model: str
    fingerprint: str

    def head(self) -> dict[str, Any]:
        """Fields that come first."""
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def whole(self, **rest: Any) -> Response:
        """The response."""
        return Response(encode(self.head() | rest), media_type="application/json")


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}-{secrets.token_hex(16)}"


def fingerprint(info: EngineInfo) -> str:
    """Changes when the same request may give another answer."""
    facts = (__version__, info.model, info.architecture, info.dtype, info.device, str(info.num_parameters))
    return f"fp_{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:12]}"


def usage_object(usage: Usage, dropped: int = 0) -> dict[str, Any]:
    """OpenAI's `usage`.

    Args:
        usage: counts.
        dropped: generated tokens that are not shown.
    """
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens - dropped,
        "total_tokens": usage.total_tokens - dropped,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def sound(output: RequestOutput) -> list[CompletionOutput]:
    """The completions of an output.

    Raises:
        ApiError: 500, one of them failed.
    """
    for one in output.outputs:
        if one.finish_reason == "error":
            raise failed("The request failed inside the engine.")
    return output.outputs


class Chunks:
    """Frames the chunks of one stream as server-sent events."""

    def __init__(self, answer: Answer, body: GenerationFields, usage: Usage) -> None:
        options = body.stream_options
        self._head = b"data: " + encode(answer.head())[:-1] + b',"choices":['
        self._usage = usage
        self._last = options is not None and bool(options.include_usage)
        self._every = options is not None and bool(options.continuous_usage_stats)
        self._tail = b'],"usage":null}\n\n' if self._last else b"]}\n\n"

    def chunk(self, choice: dict[str, Any], extra: dict[str, Any] | None = None, dropped: int = 0) -> bytes:
        """A chunk with one choice.

        Args:
            choice: as OpenAI has it.
            extra: further fields beside `choices`.
            dropped: generated tokens that are not shown.
        """
        if not extra and not self._every:
            return self._head + encode(choice) + self._tail
        rest = dict(extra or {})
        if self._every:
            rest["usage"] = usage_object(self._usage, dropped)
        elif self._last:
            rest["usage"] = None
        return self._head + encode(choice) + b"]," + encode(rest)[1:] + b"\n\n"

    def end(self, dropped: int = 0) -> bytes:
        """The usage, if it was asked for, and the end."""
        if not self._last:
            return DONE
        usage = encode({"usage": usage_object(self._usage, dropped)})[1:]
        return self._head + b"]," + usage + b"\n\n" + DONE


async def with_errors(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Events, and an error as the last one, as the status has been sent. `[DONE]` does not follow it."""
    try:
        async with aclosing(events):
            async for event in events:
                yield event
    except ApiError as error:
        yield b"data: " + encode(openai_error(error)) + b"\n\n"
