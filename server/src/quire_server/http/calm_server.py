"""uvicorn's server that is told when to end, and so need not look ten times a second whether it should.

Knows what uvicorn's `main_loop` owes it: the date in answers, new once a second, by `on_tick`. Knows no
signals; whoever runs it has its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn

__all__ = ["CalmServer"]

_TICK = 1.0
_OF_THE_DATE = 0
"""A tick's number: uvicorn renews the date at each tenth."""


class CalmServer(uvicorn.Server):
    """Wakes up once a second. For configurations without `limit_max_requests`, which would end late.

    uvicorn's own signal handlers are left out: they would stop listening before the requests have ended.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def stop(self) -> None:
        """End at once: close connections that are idle, and wait for the others."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Serve until `stop`."""
        while not await self.on_tick(_OF_THE_DATE):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _TICK)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield
