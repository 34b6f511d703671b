"""Connections: a server that closes them without saying so loses no request."""

from __future__ import annotations

import asyncio

from quire_server.bench import Address
from quire_server.bench.connection import CLOSED, Pool, Reply

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def exchanges(count: int, answers: int) -> tuple[list[Reply], int]:
    """Replies of a server that closes every connection after an answer, and after so many answers has none.

    Returns:
        replies, and how many connections it had.
    """
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        if connections <= answers:
            writer.write(ANSWER)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def run() -> list[Reply]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with Pool(Address("http", "127.0.0.1", port)) as pool:
                return [await pool.exchange(pool.encode("GET", "/v1/models")) for _ in range(count)]

    return asyncio.run(run()), connections


def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    replies, connections = exchanges(3, answers=3)
    assert [reply.body for reply in replies] == [b"ok"] * 3
    assert connections == 3


def test_a_server_that_never_answers_is_asked_once() -> None:
    (reply,), connections = exchanges(1, answers=0)
    assert reply.broken == CLOSED
    assert connections == 1
