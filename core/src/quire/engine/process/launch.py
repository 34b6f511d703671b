"""`EngineProcess`: starts an engine in a process of its own, and notices its end.

Spawned, never forked: the child begins with a fresh interpreter. Its standard input is its lifeline:
when this process ends, however it ends, so does the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import BinaryIO

from quire import errors
from quire.config import EngineConfig
from quire.engine.info import EngineInfo
from quire.engine.process.wire import Launch, Report, decoder, encode
from quire.errors import EngineError, QuireError

_read: Callable[[bytes], Report] = decoder(Report)


class EngineProcess:
    """One engine process. `AsyncLLM.connect(endpoint)` talks to it."""

    def __init__(
        self,
        config: EngineConfig,
        endpoint: str,
        *,
        max_queue: int | None = None,
        show_progress: bool = True,
    ) -> None:
        """Start it; it loads its model while this returns.

        Args:
            config: of the engine.
            endpoint: ZMQ endpoint to listen on: `ipc://` and a path in a directory that only this user may
                enter, or `tcp://127.0.0.1:PORT`.
            max_queue: most sequences that may wait; None for any number.
            show_progress: draw progress bars on stderr.
        """
        self.endpoint = endpoint
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "quire.engine.process.child", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=(writing,),
        )
        os.close(writing)
        self._reports: BinaryIO = os.fdopen(reading, "rb")
        data = encode(Launch(config.model_dump(mode="json"), endpoint, max_queue, show_progress))
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; `ready` says so
            self._process.stdin.write(len(data).to_bytes(4, "big") + data)
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ready(self) -> EngineInfo:
        """Wait until it serves.

        Raises:
            QuireError: what stands in the way, as the engine itself raised it.
        """
        report = await asyncio.to_thread(self._next_report)
        if report.info is None:
            raise await self._failure(report)
        return report.info

    async def ended(self) -> QuireError:
        """Wait for its end, and say why: the engine's own error, or how the process was ended."""
        return await self._failure(await asyncio.to_thread(self._next_report))

    def stop(self, timeout: float = 10.0) -> None:
        """End it, at the latest after `timeout` seconds. Calling it again does nothing."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()  # a stopped or hung process does not notice its lifeline
            self._process.wait()
        self._reports.close()

    def _next_report(self) -> Report:
        """The next report; an empty one when the process ends without a word."""
        head = self._reports.read(4)
        return _read(self._reports.read(int.from_bytes(head, "big"))) if len(head) == 4 else Report()

    async def _failure(self, report: Report) -> QuireError:
        code = await asyncio.to_thread(self._process.wait)
        if report.error is None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return EngineError(f"The engine process ended unexpectedly ({how}).")
        kind: type[QuireError] = (
            getattr(errors, report.error) if report.error in errors.__all__ else EngineError
        )
        return kind(report.message)
