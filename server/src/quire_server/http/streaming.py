"""Answers that end the generation when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from quire_server.service import Generation

T = TypeVar("T")

SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"


class ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


async def answered(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for an answer that is sent whole; cancel it when the client disconnects.

    Raises:
        ClientGoneError: it did. The frame ends the request without a word.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def streamed(generation: Generation, events: AsyncIterator[bytes], media_type: str = SSE) -> Response:
    """A response that sends events as they come. The generation is aborted when the client disconnects.

    Args:
        generation: what `events` reads.
        events: encoded events. It reports errors within the stream, in its dialect's form; it is closed
            with the response.
    """

    async def body() -> AsyncIterator[bytes]:
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                yield event

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return _Streamed(generation, body(), media_type=media_type, headers=headers)


class _Streamed(StreamingResponse):
    """Ends its generation with itself, also if the client went away before the first event was asked for."""

    def __init__(self, generation: Generation, body: AsyncIterator[bytes], **options: Any) -> None:
        super().__init__(body, **options)
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._generation:
            await super().__call__(scope, receive, send)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
