"""What becomes of a generation whose client was gone before its first event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import pytest

from quire import RequestOutput
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.responses.front_end import front_end
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer, hang_up, wait_for


class Endless:
    """A stream that ends when it is closed.

    Attributes:
        closed: it was.
    """

    closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        await asyncio.sleep(3600)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close it."""
        self.closed = True


class SlowStart(FakeEngine):
    """Takes its time to accept a request, of which then nothing comes.

    Attributes:
        reached: submissions that have begun.
        streams: of those accepted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reached = 0
        self.streams: list[Endless] = []

    async def submit(self, *args: Any, **options: Any) -> AsyncIterator[RequestOutput]:
        """Accept, later."""
        self.reached += 1
        await asyncio.sleep(0.1)
        self.streams.append(Endless())
        return self.streams[-1]


@pytest.fixture
def served() -> Iterator[tuple[LiveServer, SlowStart]]:
    engine = SlowStart()
    service = Service(engine, ServeConfig(), ServerMetrics())
    with LiveServer(build_app(service, [front_end(service, None)])) as server:
        yield server, engine


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_closed(served: tuple[LiveServer, SlowStart], stream: bool) -> None:
    server, engine = served
    hang_up(server, "/v1/responses", {"input": "x", "stream": stream}, lambda: engine.reached == 1)
    wait_for(lambda: bool(engine.streams) and engine.streams[0].closed)
