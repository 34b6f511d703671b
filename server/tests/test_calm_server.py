"""A server that wakes up once a second, and ends at once."""

from __future__ import annotations

import asyncio
import socket
import time
from email.utils import parsedate_to_datetime
from typing import Any

import uvicorn

from quire_server.http.calm_server import CalmServer


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class Counting(CalmServer):
    """Counts its ticks."""

    ticks = 0

    async def on_tick(self, counter: int) -> bool:
        self.ticks += 1
        return await super().on_tick(counter)


def serving() -> tuple[Counting, socket.socket]:
    """A server and the socket it is to listen on."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return Counting(uvicorn.Config(_app, log_config=None, lifespan="off")), listener


async def _date(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    (date,) = [line[6:] for line in text.splitlines() if line.lower().startswith("date: ")]
    return parsedate_to_datetime(date).timestamp()


def test_dates_are_right_and_ticks_are_few() -> None:
    async def look() -> None:
        server, listener = serving()
        run = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        first = await _date(listener.getsockname()[1])
        await asyncio.sleep(2.1)
        last = await _date(listener.getsockname()[1])
        assert -2.5 < first - time.time() + 2.1 < 0.5
        assert -2.5 < last - time.time() < 0.5
        assert last > first
        assert server.ticks <= 2 + time.monotonic() - begun
        server.stop()
        await run

    asyncio.run(look())


def test_it_ends_at_once() -> None:
    async def stop() -> float:
        server, listener = serving()
        run = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        before = server.ticks
        begun = time.monotonic()
        server.stop()
        await run
        assert server.ticks == before + 1
        return time.monotonic() - begun

    # uvicorn's own shutdown takes a tenth of a second; a tick more would be one of its own.
    assert asyncio.run(stop()) < 0.9
