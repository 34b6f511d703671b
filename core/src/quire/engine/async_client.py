"""How an event loop talks to an engine: one interface, wherever the engine runs.

`ThreadedClient` runs it in a thread of this process; `quire.engine.process.remote.RemoteClient` speaks to an
engine process.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from quire.engine.info import EngineInfo, EngineStats
from quire.errors import EngineError
from quire.request import EngineRequest, StepOutput

if TYPE_CHECKING:
    from quire.engine.client import EngineClient

logger = logging.getLogger(__name__)
T = TypeVar("T")

Deliver = Callable[[Sequence[StepOutput]], None]
Lost = Callable[[EngineError], None]

Health = Literal["loading", "ready", "stalled", "dead"]
"""Whether an engine can take work. `stalled`: no sign of life for longer than its client allows."""


class AsyncEngineClient(Protocol):
    """A front end's view of an engine, used from one event loop."""

    @property
    def info(self) -> EngineInfo:
        """The engine's facts."""

    @property
    def stats(self) -> EngineStats:
        """Its figures, at most about a second old."""

    @property
    def health(self) -> Health:
        """Whether it can take work."""

    def attach(self, deliver: Deliver, lost: Lost) -> None:
        """Begin.

        Args:
            deliver: called in the event loop with the news of a step.
            lost: called in the event loop when the engine has failed: no news of what was queued will come.
        """

    async def add(self, request: EngineRequest) -> None:
        """Queue a request; returns once the engine has taken it.

        Raises:
            InvalidRequestError: it can never run.
            OverloadedError: the queue is full.
            EngineError: the engine has failed.
        """

    def abort(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one completion of it; its last news is delivered."""

    async def reset_prefix_cache(self) -> None:
        """Forget cached prefixes; running requests are not affected."""

    async def refresh(self) -> None:
        """Wait for figures of this moment in `stats`."""

    def close(self) -> None:
        """Let go of the engine; one that this client owns is stopped. May be called from any thread."""


class ThreadedClient:
    """The engine in a thread of this process.

    The thread alone touches the engine's own client; it gets commands through a queue, and nothing
    spins while nothing is under way.
    """

    def __init__(self, client: EngineClient, info: EngineInfo) -> None:
        self._client = client
        self._info = info
        self._stats = client.stats()
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._error: EngineError | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._drive, name="quire-engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._deliver: Deliver
        self._lost: Lost

    @property
    def info(self) -> EngineInfo:
        """See `AsyncEngineClient`."""
        return self._info

    @property
    def stats(self) -> EngineStats:
        """See `AsyncEngineClient`; as of the last `refresh`."""
        return self._stats

    @property
    def health(self) -> Health:
        """See `AsyncEngineClient`."""
        return "dead" if self._error is not None or self._closed else "ready"

    def attach(self, deliver: Deliver, lost: Lost) -> None:
        """See `AsyncEngineClient`."""
        self._loop = asyncio.get_running_loop()
        self._deliver, self._lost = deliver, lost
        self._thread.start()

    async def add(self, request: EngineRequest) -> None:
        """See `AsyncEngineClient`."""
        await self._call(lambda: self._client.add(request))

    def abort(self, request_id: str, index: int | None = None) -> None:
        """See `AsyncEngineClient`."""
        if not self._closed:
            self._commands.put(lambda: self._news(self._client.abort(request_id, index)))

    async def reset_prefix_cache(self) -> None:
        """See `AsyncEngineClient`."""
        await self._call(self._client.reset_prefix_cache)

    async def refresh(self) -> None:
        """See `AsyncEngineClient`."""
        self._stats = await self._call(self._client.stats)

    def close(self) -> None:
        """See `AsyncEngineClient`: ends the thread and frees the model."""
        if not self._closed:
            self._closed = True
            self._commands.put(None)
        self._thread.join()

    async def _call(self, work: Callable[[], T]) -> T:
        """Run something in the engine's thread and wait for it without holding up the loop."""
        if self._error is not None:
            raise self._error
        if self._closed:
            raise EngineError("This engine was shut down. Start a new one to go on.")
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        self._commands.put(run)
        return await asyncio.wrap_future(future)

    # What follows runs in the engine's thread.

    def _drive(self) -> None:
        client = self._client
        try:
            while self._obey(block=not client.has_unfinished()):
                if client.has_unfinished():
                    self._news(client.outputs())
        except Exception as error:
            logger.exception("The engine has failed")
            self._error = EngineError(f"The engine has failed: {error}")
        self._closed = True
        end = self._error or EngineError("The engine was shut down.")
        self._tell(lambda: self._lost(end))
        self._answer_late()
        client.shutdown()

    def _answer_late(self) -> None:
        """Run what was asked for around the end: whoever asked waits for an answer."""
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            if command is not None:
                command()

    def _obey(self, *, block: bool) -> bool:
        """Run the commands that have come; wait for one if there is nothing else to do. False: stop."""
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            block = False

    def _news(self, outputs: Sequence[StepOutput]) -> None:
        if outputs:
            self._tell(lambda: self._deliver(outputs))

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            logger.debug("The callers' event loop has closed; its news is not wanted any more")
