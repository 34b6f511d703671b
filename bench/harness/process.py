"""A peer's process and all it has started: stopped, continued, ended, its processor time read.

Knows processes; knows not what they compute.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

END_SECONDS = 20.0


class Process:
    """A running command. Its standard error goes to a log in the temporary directory."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str], **pipes: Any) -> None:
        self.name = name
        self.log = Path(tempfile.gettempdir()) / f"quire-bench-{name}.log"
        with self.log.open("wb") as log:
            pipes = {"stdout": log} | pipes
            self._process = psutil.Popen(list(command), env=env, stderr=log, **pipes)

    @property
    def pid(self) -> int:
        """Of the command itself."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    @property
    def pipes(self) -> tuple[IO[str], IO[str]]:
        """Its input and its output, where they are pipes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    @property
    def processor_seconds(self) -> float:
        """Used so far, by all its processes."""
        return sum(_used(one) for one in self._tree())

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Continued for a while, stopped after it."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Make it stand still."""
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it, and all that it has started."""
        self._signal(signal.SIGCONT)
        tree = self._tree()
        if self.running:
            self._process.terminate()
        try:
            psutil.wait_procs(tree, timeout=END_SECONDS)
        finally:  # also where whoever waits is interrupted
            for one in tree:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(tree, timeout=END_SECONDS)  # orphans are for others to reap
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: signal.Signals) -> None:
        for one in self._tree():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)


class OthersMeter:
    """The share of the machine's processor time that went to nobody in the run, while a block ran.

    Processes not of the measured peer nor of the harness itself, and what the host took for other guests.
    """

    share = 0.0

    def __init__(self, process: Process) -> None:
        self._process = process

    def __enter__(self) -> OthersMeter:
        self._begin = self._read()
        return self

    def __exit__(self, *exception: object) -> None:
        wall, busy, own = (after - before for before, after in zip(self._begin, self._read(), strict=True))
        cores = psutil.cpu_count() or 1
        self.share = max(0.0, busy - own) / max(wall, 1e-3) / cores

    def _read(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        own = self._process.processor_seconds + _used(psutil.Process())
        return time.perf_counter(), sum(times) - idle - counted_twice, own


def _used(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def text_pipes() -> dict[str, Any]:
    """Arguments that make input and output pipes of text lines."""
    return {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
