"""One API process: speaks HTTP, tokenizes and streams, connected to the engine process.

Started by the supervisor as `python -m quire_server.api_process REPORT_FD SOCKET_FD`, told the rest
by an `ApiLaunch` on standard input, which then stays open as its lifeline. Never imports torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from typing import BinaryIO

import msgspec

from quire import AsyncLLM
from quire_server.api_launch import LISTENING, ApiLaunch
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.http.calm_server import CalmServer
from quire_server.http.logging import configure_logging
from quire_server.http.protocol import uvicorn_config
from quire_server.metrics import ServerMetrics
from quire_server.service import Service

logger = logging.getLogger(__name__)

_CLOSING_SECONDS = 5.0
"""For connections to be closed once all generations have ended."""


async def serve(launch: ApiLaunch, listener: socket.socket, report: BinaryIO) -> None:
    """Serve until told to stop by SIGTERM, then drain."""
    settings = ServeConfig.model_validate(launch.settings)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    llm = await AsyncLLM.connect(
        launch.endpoint,
        stall_timeout=settings.stall_timeout,
        restarts=settings.on_engine_death == "restart",
        stream=launch.index,
    )
    async with llm:
        service = Service(llm, settings, ServerMetrics())
        front_ends = [route.load()(service, route.load_options()) for route in launch.routes]
        config = uvicorn_config(settings, build_app(service, front_ends))
        config.timeout_graceful_shutdown = int(_CLOSING_SECONDS)
        server = CalmServer(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        _tell(report, LISTENING)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await _drain(service, settings.drain_timeout)
        server.stop()
        await serving


async def _drain(service: Service, timeout: float) -> None:
    """Refuse what is new, and wait for what runs."""
    service.draining = True
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while service.active and loop.time() < deadline:
        await asyncio.sleep(0.05)
    if service.active:
        logger.warning("%d generations did not finish within drain_timeout; they are cut off", service.active)


def _tell(report: BinaryIO, word: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        report.write(word)
        report.flush()


def _hang_on(lifeline: int) -> None:
    """Wait for the end of a file descriptor's input, and end with it.

    Not through the buffered object: a daemon thread that holds its lock is fatal when the interpreter ends.
    """
    while os.read(lifeline, 1 << 16):
        pass
    os._exit(1)


def main(report_fd: int, socket_fd: int) -> None:
    """Be an API process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
    stdin = sys.stdin.buffer
    launch = msgspec.msgpack.decode(stdin.read(int.from_bytes(stdin.read(4), "big")), type=ApiLaunch)
    threading.Thread(target=_hang_on, args=(stdin.fileno(),), daemon=True).start()
    configure_logging(ServeConfig.model_validate(launch.settings))
    listener = socket.socket(fileno=socket_fd)
    with os.fdopen(report_fd, "wb") as report, uvicorn_loop() as runner:
        runner.run(serve(launch, listener, report))


def uvicorn_loop() -> asyncio.Runner:
    """uvloop where there is one."""
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
