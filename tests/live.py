"""A real server for tests: `quire serve tiny` in processes of its own, on a free port of the loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

START_SECONDS = 120.0  # loading takes some 5 on an idle machine
KEY = "test-key"


class LiveServer:
    """A server that is up once the `with` block is entered, and gone after it.

    Attributes:
        url: without a slash at the end.
        client: an HTTP client with the key and the URL set.
        log: what the server wrote to stderr.
    """

    def __init__(self, *arguments: str, model: str = "tiny", key: str | None = KEY, **environ: str) -> None:
        command = [sys.executable, "-m", "quire_server", "--model", model, "--port", "0", *arguments]
        if key is not None:
            command += ["--api-key", key]
        self._command = command
        # By default a cache is larger, and the machine is busy for a second filling it in.
        quick = {"OMP_NUM_THREADS": "1", "QUIRE_KV_CACHE_MEMORY_BYTES": "64MiB"}
        self._environ = {**os.environ, **quick, "HF_HUB_OFFLINE": "1", **environ}
        self._key = key
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stderr=subprocess.PIPE, text=True, env=self._environ, errors="replace"
        )
        found = threading.Event()
        self.url = ""

        def read() -> None:
            assert self.process.stderr is not None
            for line in self.process.stderr:
                self.log.append(line.rstrip("\n"))
                card = re.match(r"serving +(\S+)", line)
                if card:
                    self.url = card[1]
                    found.set()
            found.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        found.wait(START_SECONDS)
        if not self.url:
            self._kill()
            raise AssertionError("the server did not come up:\n" + "\n".join(self.log[-50:]))
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self._kill()
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _kill(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()
        self.process.kill()
        self.process.wait()

    def children(self, name: str) -> list[psutil.Process]:
        """Processes of this server whose command line contains a name."""
        return [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if any(name in word for word in child.cmdline())
        ]

    @property
    def engine(self) -> psutil.Process:
        """The engine process."""
        (engine,) = self.children("quire.engine.process.child")
        return engine

    def complete(self, prompt: str = "def f(", **body: Any) -> httpx.Response:
        """POST /v1/completions."""
        defaults = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0}
        return self.client.post("/v1/completions", json=defaults | body)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def wait_until(self, path: str, status: int, seconds: float = 10.0) -> float:
        """Ask a path until it answers with a status; seconds it took. A refused connection is status 0."""
        start = time.monotonic()
        while (found := self.status(path)) != status:
            if time.monotonic() - start > seconds:
                raise AssertionError(f"{path} still answers {found}, not {status}, after {seconds} s")
            time.sleep(0.02)
        return time.monotonic() - start

    def status(self, path: str) -> int:
        """Status of a GET; 0 if nobody answers."""
        try:
            return self.client.get(path, timeout=5).status_code
        except httpx.TransportError:
            return 0
