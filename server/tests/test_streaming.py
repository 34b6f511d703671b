"""A generation ends with its response, whatever becomes of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from quire import SamplingParams
from quire_server.config import ServeConfig
from quire_server.errors import ApiError
from quire_server.http.streaming import streamed
from quire_server.metrics import ServerMetrics
from quire_server.service import Generation, Service, Work
from quire_server.testing import FakeEngine

WORK = Work(prompts=["abc", "def"], params=SamplingParams(max_tokens=4), stream=True)


async def events(generation: Generation) -> AsyncIterator[bytes]:
    async for _, output in generation:
        yield output.outputs[0].text.encode()


@pytest.mark.parametrize("sent", [0, 1, 2])
def test_a_response_that_cannot_be_sent_ends_its_generation(sent: int) -> None:
    """Some servers raise when the client has gone, be it before the first byte."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        if len(messages) == sent:
            raise OSError("gone")
        messages.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def run() -> Service:
        service = Service(FakeEngine(), ServeConfig(), ServerMetrics())
        generation = await service.start(WORK)
        assert service.active == 1
        response = streamed(generation, events(generation))
        with pytest.raises(ClientDisconnect):
            await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
        return service

    service = asyncio.run(run())
    assert service.active == 0
    assert service.engine.running == 0  # type: ignore[attr-defined]


class OneBadClose:
    """A stream that cannot be closed."""

    def __aiter__(self) -> OneBadClose:
        return self

    async def __anext__(self) -> Any:
        raise RuntimeError("on purpose")

    async def aclose(self) -> None:
        raise RuntimeError("on purpose")


def test_what_fails_unforeseen_is_an_error_of_the_service_and_closes_the_rest() -> None:
    async def run() -> tuple[int, int]:
        engine, ended = FakeEngine(), []
        engine.hold_after = 1
        stream = await engine.submit("abc", deltas=True)
        await anext(stream)
        streams: list[Any] = [OneBadClose(), stream]
        generation = Generation(streams, deltas=True, timeout=None, ended=lambda: ended.append(1))
        with pytest.raises((ApiError, RuntimeError)):
            async for _ in generation:
                pass
        return engine.running, len(ended)

    assert asyncio.run(run()) == (0, 1)
