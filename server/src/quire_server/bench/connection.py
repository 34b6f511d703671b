"""HTTP/1.1 as a load generator needs it: a reply's bytes, each event with the time at which it arrived.

Knows sockets, HTTP and the framing of server-sent events; never looks into an event. Parsing of HTTP is
httptools' (C); an event's time is taken as the first thing after its bytes are read from the socket, and
nothing is decoded before the reply has ended, so that a busy client disturbs its own clock as little as it
can.

The client's own ceiling, measured against a server that sends ready-made bytes (one core of a Xeon, Python
3.11, uvloop): about 300 000 streamed tokens or 16 000 requests of one token per second of processor time, all
included. Reading the same streams took httpx 18 times as long (30 000 tokens per second): hence this.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import httptools

from quire_server.bench.address import Address

IDLE_SECONDS = 2.0
"""Seconds an idle connection is reused for: servers close theirs after 5 or more."""

MAX_REPLY_BYTES = 64 * 2**20
"""Largest reply that is kept in memory."""


CLOSED = "the connection was closed"


class BrokenReplyError(Exception):
    """The connection ended before the reply did, or what came is not HTTP."""


@dataclass(slots=True)
class Reply:
    """What came back.

    Attributes:
        status: HTTP status.
        streamed: the body is a stream of events; else it is in `body`.
        events: arrival (`time.perf_counter`) and data of each event, in order.
        body: everything else.
        broken: why the reply ended early, or None. The events until then are there.
    """

    status: int = 0
    streamed: bool = False
    events: list[tuple[float, bytes]] = field(default_factory=list)
    body: bytes = b""
    broken: str | None = None


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self.idle_since = time.perf_counter()
        self.open = False
        self._transport: Any = None
        self._done: asyncio.Future[Reply] | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._reply = Reply()
        self._headers_done = False
        self._until_close = True
        self._size = 0
        self._tail = b""
        self._now = 0.0

    async def exchange(self, request: bytes) -> Reply:
        """Send a whole request, wait for the whole reply. Cancelling it closes the connection."""
        self._reset()
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._done
        finally:
            self._done = None
            self.idle_since = time.perf_counter()

    def close(self) -> None:
        """Close it."""
        self.open = False
        if self._transport is not None:
            self._transport.close()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.open = True

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        if self._done is None or self._done.done():
            self.close()  # nobody asked
            return
        self._size += len(data)
        if self._size > MAX_REPLY_BYTES:
            self._finish(f"the reply is larger than {MAX_REPLY_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(f"not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._done is None or self._done.done():
            return
        if self._headers_done and self._until_close and error is None:
            self._finish(None)
        else:
            self._finish(CLOSED if error is None else f"the connection broke: {error}")

    # httptools calls these

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._reply.streamed = value.lower().startswith(b"text/event-stream")
        elif name in (b"content-length", b"transfer-encoding"):
            self._until_close = False

    def on_headers_complete(self) -> None:
        self._headers_done = True
        self._reply.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self._reply.streamed:
            self._reply.body += body
            return
        *lines, self._tail = (self._tail + body).split(b"\n")
        # One event is one line of data: no server of this kind breaks its JSON over several.
        for line in lines:
            if line.startswith(b"data:"):
                self._reply.events.append((self._now, line[5:].strip()))

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        self._finish(None)

    def _finish(self, broken: str | None) -> None:
        if broken is not None:
            self.close()
        if self._done is not None and not self._done.done():
            self._reply.broken = broken
            self._done.set_result(self._reply)


class Pool:
    """Connections to one server, reused while they are fresh. Use it as a context manager."""

    def __init__(self, address: Address, api_key: str | None = None) -> None:
        self._address = address
        self._idle: deque[Connection] = deque()
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = f"Host: {address.netloc}\r\nUser-Agent: quire-bench\r\nAccept: */*\r\n{key}"

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *raised: object) -> None:
        while self._idle:
            self._idle.pop().close()

    def encode(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A request as it goes out; `path` begins with `/v1`."""
        head = f"{method} {self._address.prefix}{path} HTTP/1.1\r\n{self._head}"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode("latin-1") + body

    async def exchange(self, request: bytes) -> Reply:
        """Send an encoded request.

        A connection that was used before may have been closed by the server meanwhile, as llama.cpp does
        after a stream: a request that met no answer at all on such a one goes out again on a new one (RFC
        9112, 9.3.1).

        Raises:
            OSError: no connection could be made (`TimeoutError` is one).
        """
        if (used := self._fresh()) is not None:
            reply = await self._exchange(used, request)
            if reply.status or reply.broken != CLOSED:
                return reply
        return await self._exchange(await self._connect(), request)

    async def _exchange(self, connection: Connection, request: bytes) -> Reply:
        finished = False
        try:
            reply = await connection.exchange(request)
            finished = True
            return reply
        finally:
            if finished and connection.open:
                self._idle.append(connection)
            else:
                connection.close()

    def _fresh(self) -> Connection | None:
        now = time.perf_counter()
        while self._idle:
            connection = self._idle.pop()  # the youngest: the others may grow old and be closed
            if connection.open and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            Connection, self._address.host, self._address.port, ssl=self._tls
        )
        return connection
