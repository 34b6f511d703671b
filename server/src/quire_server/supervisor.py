"""The supervisor: starts the engine process and the API processes, watches them, and stops them in order.

Light: it loads no model, speaks no HTTP and never imports torch. Its children notice its end by
their standard input, so none outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from pydantic import SecretStr

from quire import EngineConfig, EngineInfo, EngineProcess
from quire.errors import ConfigError, EngineError, QuireError
from quire.plugin_plan import PlannedPlugin
from quire_server.api_launch import LISTENING, ApiLaunch
from quire_server.config import ServeConfig
from quire_server.metrics.shared import shared_metrics

logger = logging.getLogger(__name__)

_LINGER = 2.0
"""Seconds that a server whose engine has died goes on saying so before it exits."""

_STEADY = 60.0
"""Seconds that a process must have lived for its next start not to be put off longer than the last."""

_LONGEST_PAUSE = 30.0
_GRACE = 10.0
"""Seconds beyond `drain_timeout` before a process that does not end is killed."""


class ApiProcess:
    """One API process, seen from the supervisor."""

    def __init__(
        self,
        settings: ServeConfig,
        endpoint: str,
        index: int,
        routes: list[PlannedPlugin],
        listener: socket.socket,
    ) -> None:
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "quire_server.api_process", str(writing), str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=(writing, listener.fileno()),
        )
        os.close(writing)
        self._report = os.fdopen(reading, "rb", buffering=0)
        launch = ApiLaunch(_plain(settings), endpoint, index, routes)
        data = msgspec.msgpack.encode(launch)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; `listening` says so
            self._process.stdin.write(len(data).to_bytes(4, "big") + data)
            self._process.stdin.flush()

    async def listening(self) -> None:
        """Wait until it serves.

        Raises:
            EngineError: it ended instead; it has said why on stderr.
        """
        if await asyncio.to_thread(self._report.read, 1) != LISTENING:
            raise EngineError(f"An API process ended before it served (exit code {await self.ended()}).")

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        return await asyncio.to_thread(self._process.wait)

    def drain(self) -> None:
        """Ask it to finish what runs, and end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        self._report.close()


class Supervisor:
    """One server: an engine process, `api_workers` API processes, and this one."""

    def __init__(
        self,
        config: EngineConfig,
        settings: ServeConfig,
        routes: list[PlannedPlugin],
        *,
        show_progress: bool = True,
        on_ready: Callable[[str, EngineInfo], None] = lambda url, info: None,
    ) -> None:
        """Describe a server; `run` runs it.

        Args:
            config: the engine's settings.
            settings: the server's.
            routes: front ends to mount.
            show_progress: draw progress bars while the model is loaded.
            on_ready: called with the server's URL and the engine's facts once it serves.
        """
        self._config = config
        self._settings = settings
        self._routes = routes
        self._show_progress = show_progress
        self._on_ready = on_ready
        self._endpoint = ""
        self._signals = 0
        self._signalled = asyncio.Event()
        self._failure: QuireError | None = None
        self._failed = asyncio.Event()
        self._engine: EngineProcess | None = None
        self._workers: dict[int, ApiProcess] = {}

    async def run(self) -> int:
        """Serve until a signal or the engine's end; returns the exit code.

        Raises:
            QuireError: the server could not start, or its engine has failed for good.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal)
        signalled = asyncio.create_task(self._signalled.wait())
        failed = asyncio.create_task(self._failed.wait())
        async with contextlib.AsyncExitStack() as stack:
            opening = asyncio.create_task(stack.enter_async_context(self.serving()))
            await asyncio.wait({opening, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():  # told to stop before there was anything to finish
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)
                return 0
            self._on_ready(*await opening)
            await asyncio.wait({failed, signalled}, return_when=asyncio.FIRST_COMPLETED)
        failed.cancel()
        signalled.cancel()
        if self._failure is not None:
            raise self._failure
        return 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[str, EngineInfo]]:
        """A server that is up within the block, and drained and gone after it: its URL and facts.

        Raises:
            QuireError: the server could not start.
        """
        shared = shared_metrics() if self._settings.api_workers > 1 else contextlib.nullcontext()
        directory = Path(tempfile.mkdtemp(prefix="quire-"))  # only this user may enter it
        self._endpoint = f"ipc://{directory / 'engine'}"
        try:
            with _listener(self._settings) as listener, shared:
                for index in range(self._settings.api_workers):
                    self._start_worker(index, listener)
                info = await self._start_engine().ready()
                await asyncio.gather(*(worker.listening() for worker in self._workers.values()))
                tasks = [asyncio.create_task(self._keep_engine())]
                tasks += [asyncio.create_task(self._keep_worker(index, listener)) for index in self._workers]
                try:
                    yield url(self._settings, listener), info
                finally:
                    if self._failure is not None:
                        logger.error("%s", self._failure)
                        await asyncio.sleep(_LINGER)
                    for task in tasks:
                        task.cancel()
                    await self._drain()
        finally:
            for worker in self._workers.values():
                worker.kill()
            if self._engine is not None:
                self._engine.stop()
            shutil.rmtree(directory, ignore_errors=True)

    def _signal(self) -> None:
        self._signals += 1
        self._signalled.set()

    def _start_engine(self) -> EngineProcess:
        self._engine = EngineProcess(
            self._config,
            self._endpoint,
            max_queue=self._settings.max_queue,
            show_progress=self._show_progress,
        )
        return self._engine

    def _start_worker(self, index: int, listener: socket.socket) -> ApiProcess:
        worker = ApiProcess(self._settings, self._endpoint, index, self._routes, listener)
        self._workers[index] = worker
        return worker

    async def _keep_engine(self) -> None:
        """Wait for the engine's end; start it anew if that is wanted. Returns when it has failed for good."""
        pause = 1.0
        while True:
            assert self._engine is not None
            began = time.monotonic()
            error = await self._engine.ended()
            self._engine.stop()
            if self._settings.on_engine_death == "exit":
                self._fail(error)
                return
            pause = 1.0 if time.monotonic() - began > _STEADY else min(2 * pause, _LONGEST_PAUSE)
            logger.error("%s Starting it anew in %.0f s.", error, pause)
            await asyncio.sleep(pause)
            try:
                await self._start_engine().ready()
            except QuireError as error:
                self._fail(error)
                return
            logger.warning("The engine is up again")

    def _fail(self, error: QuireError) -> None:
        self._failure = error
        self._failed.set()

    async def _keep_worker(self, index: int, listener: socket.socket) -> None:
        """Start an API process anew whenever it ends."""
        pause = 0.5
        while True:
            began = time.monotonic()
            code = await self._workers[index].ended()
            pause = 0.5 if time.monotonic() - began > _STEADY else min(2 * pause, _LONGEST_PAUSE)
            logger.error(
                "API process %d ended (exit code %d); starting it anew in %.0f s", index, code, pause
            )
            await asyncio.sleep(pause)
            self._start_worker(index, listener)

    async def _drain(self) -> None:
        """Let what runs finish. A second signal, or a process that hangs, ends it at once."""
        for worker in self._workers.values():
            worker.drain()
        impatient = asyncio.create_task(self._second_signal())
        ended = asyncio.create_task(self._all_ended())
        await asyncio.wait(
            {ended, impatient},
            timeout=self._settings.drain_timeout + _GRACE,
            return_when=asyncio.FIRST_COMPLETED,
        )
        impatient.cancel()

    async def _all_ended(self) -> None:
        for worker in self._workers.values():
            await worker.ended()

    async def _second_signal(self) -> None:
        while self._signals < 2:
            self._signalled.clear()
            await self._signalled.wait()


def url(settings: ServeConfig, listener: socket.socket) -> str:
    """Where a browser on this machine finds the server."""
    scheme = "http" if settings.ssl_certfile is None else "https"
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "localhost", "::": "localhost", "127.0.0.1": "localhost"}.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{settings.root_path}"


def _listener(settings: ServeConfig) -> socket.socket:
    """The socket, bound and not yet listening: until the model is loaded, connections are refused.

    Raises:
        ConfigError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
            "Choose another `port` or `host`."
        ) from error
    return listener


def _plain(settings: ServeConfig) -> dict[str, object]:
    """The settings as plain data, secrets in the clear: for a pipe to a child, never for a log."""
    data = settings.model_dump(mode="json")
    for name, value in settings:
        if isinstance(value, SecretStr):
            data[name] = value.get_secret_value()
        elif isinstance(value, list):
            data[name] = [one.get_secret_value() if isinstance(one, SecretStr) else one for one in value]
    return data
