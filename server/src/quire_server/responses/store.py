"""`Store`: responses kept for later requests, in this process's memory, within bounds.

The least recently used that has ended goes first. Knows no HTTP path and no engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from quire_server.errors import overloaded
from quire_server.responses.record import Record

MAX_RESPONSES = 1000
MAX_BYTES = 64 * 2**20

Stop = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Kept:
    """A stored response.

    Attributes:
        record: it.
        size: bytes that are counted for it.
        stop: ends what works on it in the background; None if nothing ever did.
    """

    record: Record
    size: int
    stop: Stop | None


class Store:
    """Responses by id.

    Args:
        max_responses: most responses.
        max_bytes: most bytes of text, all together, in UTF-8. What running responses add may exceed it
            until the next one is stored.
    """

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self.max_responses = max_responses
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, response_id: str) -> Kept | None:
        """A response, which thereby becomes the most recently used; None if it is not there."""
        kept = self._kept.get(response_id)
        if kept is not None:
            self._kept.move_to_end(response_id)
        return kept

    def put(self, record: Record, stop: Stop | None = None) -> None:
        """Keep a response; others make room.

        Raises:
            ApiError: 429, there is no room: it is too large, or all the others still run.
        """
        size = _size(record)
        if size > self.max_bytes:
            raise overloaded("The response is too large to be stored; send store: false.")
        self._make_room(1, size)
        if len(self._kept) >= self.max_responses or self.num_bytes + size > self.max_bytes:
            raise overloaded("There is no room to store another response; send store: false.")
        self._kept[record.id] = Kept(record, size, stop)
        self.num_bytes += size

    def grown(self, record: Record) -> None:
        """Count a response anew, if it is still there."""
        kept = self._kept.get(record.id)
        if kept is None:
            return
        self.num_bytes -= kept.size
        kept.size = _size(record)
        self.num_bytes += kept.size
        self._make_room(0, 0)

    def remove(self, response_id: str) -> Kept | None:
        """Forget a response; None if it is not there."""
        kept = self._kept.pop(response_id, None)
        if kept is not None:
            self.num_bytes -= kept.size
        return kept

    def _make_room(self, count: int, size: int) -> None:
        """Forget what has ended, the least recently used first, until so much more fits."""
        for response_id in [key for key, one in self._kept.items() if one.record.ended]:
            if len(self._kept) + count <= self.max_responses and self.num_bytes + size <= self.max_bytes:
                return
            self.remove(response_id)


def _size(record: Record) -> int:
    # The request is kept as it came, beside the conversation that it continues.
    told = [*record.conversation, *record.body.messages(), record.body.instructions, record.body.tools]
    logprobs = sum(len(item.logprobs) for item in record.output.items)
    return sum(len(msgspec.json.encode(one)) for one in told) + 256 * logprobs + 1024
