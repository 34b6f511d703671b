"""The streamed events of a response, in OpenAI's order, numbered.

`created, in_progress, output_item.added, content_part.added, output_text.delta ..., output_text.done,
content_part.done, output_item.done`, then `completed`, `incomplete` or `failed`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from quire_server.errors import ApiError
from quire_server.responses.record import Record
from quire_server.service import Generation


class _Numbered:
    """Encodes events and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._count, **fields}
        self._count += 1
        return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"


async def events(
    record: Record, generation: Generation, ended: Callable[[Record], None]
) -> AsyncGenerator[bytes, None]:
    """Encoded events of a response.

    Args:
        record: takes the deltas.
        generation: what the engine makes.
        ended: called with the record when it has ended, unless the client went away before.
    """
    event = _Numbered()
    place = {"output_index": 0, "content_index": 0, "item_id": record.item_id}
    record.status = "in_progress"
    yield event("response.created", response=record.view())
    yield event("response.in_progress", response=record.view())
    yield event("response.output_item.added", output_index=0, item=record.item(begun=True))
    yield event("response.content_part.added", **place, part=record.part())
    try:
        async for _, output in generation:
            text, logprobs = record.add(output)
            if text or logprobs:
                yield event("response.output_text.delta", **place, delta=text, logprobs=logprobs)
    except ApiError as error:
        record.fail(error)
    record.usage = generation.usage
    ended(record)
    if record.error is None:
        yield event("response.output_text.done", **place, text=record.text, logprobs=record.logprobs)
        yield event("response.content_part.done", **place, part=record.part())
        yield event("response.output_item.done", output_index=0, item=record.item())
    yield event(f"response.{record.status}", response=record.view())
