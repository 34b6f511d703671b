"""`RemoteClient`: an event loop's connection to an engine process.

A DEALER socket, and its monitor, which tells at once when the other side is gone: the kernel closes the
connection of a process that was killed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from quire.engine.async_client import Deliver, Health, Lost
from quire.engine.info import EngineInfo, EngineStats
from quire.engine.process.wire import Abort, Add, Call, FromClient, Hello, News, Refusal, decoder, encode
from quire.errors import EngineError, InvalidRequestError, OverloadedError
from quire.request import EngineRequest

logger = logging.getLogger(__name__)

K = TypeVar("K")

_read: Callable[[bytes], News] = decoder(News)


class RemoteClient:
    """Speaks to the engine process behind an endpoint; fulfils `AsyncEngineClient`."""

    def __init__(self, endpoint: str, *, stall_timeout: float, restarts: bool) -> None:
        """Connect, in the running event loop, to an engine that need not be there yet.

        Args:
            endpoint: where it listens.
            stall_timeout: seconds of silence after which it counts as stalled.
            restarts: somebody starts it anew when it dies.
        """
        self._stall_timeout = stall_timeout
        self._restarts = restarts
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, secrets.token_hex(8).encode())
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is kept for an engine that is not there
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._info: EngineInfo | None = None
        self._stats: EngineStats | None = None
        self._state: Health = "loading"
        self._heard = time.monotonic()
        self._failure: str | None = None
        self._answers: dict[str, asyncio.Future[None]] = {}
        self._calls: dict[int, asyncio.Future[None]] = {}
        self._call_ids = itertools.count()
        self._ready = asyncio.Event()
        self._deliver: Deliver | None = None
        self._on_lost: Lost | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._socket.connect(endpoint)
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._watch())]

    @property
    def info(self) -> EngineInfo:
        """See `AsyncEngineClient`."""
        assert self._info is not None, "`connected` comes first"
        return self._info

    @property
    def stats(self) -> EngineStats:
        """See `AsyncEngineClient`."""
        assert self._stats is not None, "`connected` comes first"
        return self._stats

    @property
    def health(self) -> Health:
        """See `AsyncEngineClient`."""
        if self._state == "ready" and time.monotonic() - self._heard > self._stall_timeout:
            return "stalled"
        return self._state

    async def connected(self) -> EngineInfo:
        """Wait until the engine has loaded its model."""
        await self._ready.wait()
        return self.info

    def attach(self, deliver: Deliver, lost: Lost) -> None:
        """See `AsyncEngineClient`."""
        self._deliver, self._on_lost = deliver, lost

    async def add(self, request: EngineRequest) -> None:
        """See `AsyncEngineClient`."""
        await self._answer(self._answers, request.request_id, Add(request))

    def abort(self, request_id: str, index: int | None = None) -> None:
        """See `AsyncEngineClient`."""
        if self._state == "ready" and not self._closed:
            # Nobody waits for it: should the engine be gone, the request is too.
            self._send(Abort(request_id, index)).add_done_callback(lambda sent: sent.exception())

    async def reset_prefix_cache(self) -> None:
        """See `AsyncEngineClient`."""
        call_id = next(self._call_ids)
        await self._answer(self._calls, call_id, Call(call_id, "reset_prefix_cache"))

    async def refresh(self) -> None:
        """See `AsyncEngineClient`."""
        call_id = next(self._call_ids)
        await self._answer(self._calls, call_id, Call(call_id, "report"))

    def close(self) -> None:
        """See `AsyncEngineClient`: the engine process itself goes on."""
        if self._closed:
            return
        self._closed = True
        if threading.get_ident() == self._thread:
            self._end()
        else:
            asyncio.run_coroutine_threadsafe(self._end_soon(), self._loop).result()

    async def _answer(self, waiting: dict[K, asyncio.Future[None]], key: K, message: FromClient) -> None:
        """Send a message and wait for what answers it.

        Raises:
            QuireError: what the engine says, or that it is gone.
        """
        if self._closed:
            raise EngineError("This connection was shut down. Make a new one to go on.")
        if self._state != "ready":
            raise self._error()
        answer = waiting[key] = self._loop.create_future()
        try:
            try:
                await self._send(message)
            except zmq.Again:
                raise self._error() from None
            await answer
        finally:
            del waiting[key]

    def _send(self, message: FromClient) -> asyncio.Future[None]:
        return cast("asyncio.Future[None]", self._socket.send(encode(message), zmq.NOBLOCK))

    async def _receive(self) -> None:
        while True:
            data = await self._socket.recv()
            try:
                self._take(_read(data))
            except Exception:
                logger.exception("News from the engine could not be handled")

    def _take(self, news: News) -> None:
        self._heard = time.monotonic()
        if news.stats is not None:
            self._stats = news.stats
        if news.info is not None:
            self._info = news.info
            self._failure = None
            self._state = "ready"
            self._ready.set()
        for request_id in news.accepted:
            _finish(self._answers.get(request_id))
        for refusal in news.refused:
            _finish(self._answers.get(refusal.request_id), _as_error(refusal))
        if news.outputs and self._deliver is not None:
            self._deliver(news.outputs)
        for call_id in news.done:
            _finish(self._calls.get(call_id))
        if news.failure is not None:
            self._failure = news.failure
            self._gone()

    async def _watch(self) -> None:
        while True:
            event = parse_monitor_message(await self._monitor.recv_multipart())
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._heard = time.monotonic()
                await self._socket.send(encode(Hello()))
            else:
                self._gone()

    def _gone(self) -> None:
        """The engine has died: tell everyone who waits for it."""
        if self._state == "ready":
            self._state = "loading" if self._restarts else "dead"
            error = self._error()
            for future in (*self._answers.values(), *self._calls.values()):
                _finish(future, error)
            if self._on_lost is not None:
                self._on_lost(error)

    def _error(self) -> EngineError:
        if self._failure is not None:
            return EngineError(f"The engine has failed: {self._failure}")
        if self._info is None:
            return EngineError("The engine is not up yet.")
        return EngineError("The engine process has ended.")

    async def _end_soon(self) -> None:
        self._end()

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._state == "ready" and self._on_lost is not None:
            self._on_lost(EngineError("The connection to the engine was shut down."))
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        self._context.term()


def _finish(future: asyncio.Future[None] | None, error: Exception | None = None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _as_error(refusal: Refusal) -> Exception:
    """The exception that the engine raised, of the one error tree."""
    if refusal.error == InvalidRequestError.__name__:
        return InvalidRequestError(refusal.message, field=refusal.field)
    if refusal.error == OverloadedError.__name__:
        return OverloadedError(refusal.message)
    return EngineError(refusal.message)
