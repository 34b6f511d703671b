"""The streamed events of a response, in OpenAI's order, numbered.

`created, in_progress`; per item `output_item.added`, what tells of its content, and `output_item.done`;
for a message that is `content_part.added, output_text.delta ..., output_text.done, content_part.done`;
then `completed`, `incomplete` or `failed`.
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
    record: Record, generation: Generation, ended: Callable[[Record], None], *, parses: bool
) -> AsyncGenerator[bytes, None]:
    """Encoded events of a response.

    Args:
        record: takes the deltas.
        generation: what the engine makes.
        ended: called with the record when it has ended, unless the client went away before.
        parses: the answer may hold more than a message.
    """
    event = _Numbered()
    record.status = "in_progress"
    yield event("response.created", response=record.view())
    yield event("response.in_progress", response=record.view())
    if not parses:  # then it is known to be a message
        for kind, fields in record.output.begin_message():
            yield event(f"response.{kind}", **fields)
    try:
        async for _, output in generation:
            for kind, fields in record.add(output):
                yield event(f"response.{kind}", **fields)
    except ApiError as error:
        record.fail(error)
    record.usage = generation.usage
    closing = record.output.end(record.item_status)
    ended(record)
    if record.error is None:
        for kind, fields in closing:
            yield event(f"response.{kind}", **fields)
    yield event(f"response.{record.status}", response=record.view())
