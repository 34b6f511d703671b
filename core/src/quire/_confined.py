"""A process that may be stopped: it answers one question at a time, and is killed when it takes too long.

What strangers send may loop for ever or fill memory. A process can be stopped and limited, a thread cannot.
Knows bytes and seconds; knows nothing of what is asked. The process reads and writes frames over its standard
streams: 4 bytes of length, big-endian, then so many bytes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence

__all__ = ["ConfinedProcess", "DiedError", "OverdueError"]

_START_SECONDS = 30.0  # on a machine that is busy with something else
_SIGXCPU = getattr(signal, "SIGXCPU", 0)


class OverdueError(Exception):
    """There was no answer in time; the process was killed."""


class DiedError(Exception):
    """The process ended instead of answering.

    Attributes:
        status: its exit code, negative for a signal.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(f"it ended its process (status {status})")
        self.status = status


class ConfinedProcess:
    """Starts a process at the first question, keeps it, and replaces it when it had to be stopped.

    It ends with `close`, with this process (its input does), or on a limit of its own. Threads take turns.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        greeting: bytes | None = None,
        greeted: Callable[[bytes], None] | None = None,
        start_seconds: float = _START_SECONDS,
    ) -> None:
        """Nothing is started yet.

        Args:
            command: program and arguments.
            greeting: first frame that a new process gets; without one, the first question is.
            greeted: looks at what it answers to that; what it raises, `ask` raises.
            start_seconds: for starting; without a greeting they are added to the first question's.
        """
        self._command = list(command)
        self._greeting = greeting
        self._greeted = greeted
        self._start_seconds = start_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, question: bytes, seconds: float) -> bytes:
        """The answer. Waiting for other threads, and starting, do not count.

        Raises:
            OverdueError: it took longer than `seconds`.
            DiedError: it ended.
        """
        with self._lock:
            process, fresh = self._running()
            if fresh and self._greeting is not None:
                answer = self._exchange(process, self._greeting, self._start_seconds)
                if self._greeted is not None:
                    try:
                        self._greeted(answer)
                    except BaseException:
                        self._stop()
                        raise
                fresh = False
            return self._exchange(process, question, seconds + (self._start_seconds if fresh else 0.0))

    def close(self) -> None:
        """End the process. A later question starts another one."""
        with self._lock:
            self._stop()

    def kill(self) -> None:
        """End the process now, though somebody may wait for its answer, who gets a `DiedError`."""
        process = self._process
        if process is not None and self._owner == os.getpid():
            process.kill()
        if self._lock.acquire(blocking=False):
            try:
                self._stop()
            finally:
                self._lock.release()

    def _exchange(self, process: subprocess.Popen[bytes], question: bytes, seconds: float) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        # Killing the process ends a blocked read or write, on every platform and for any descriptor.
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(struct.pack(">I", len(question)) + question)
            process.stdin.flush()
            head = process.stdout.read(4)
            if len(head) < 4:
                raise EOFError
            size = struct.unpack(">I", head)[0]
            answer = process.stdout.read(size)
            if len(answer) < size:
                raise EOFError
        except (EOFError, OSError) as error:
            self._stop()
            if late.is_set() or process.returncode == -_SIGXCPU:
                raise OverdueError(f"it takes longer than {seconds:g} seconds") from error
            raise DiedError(process.returncode) from error
        except BaseException:
            self._stop()  # interrupted between question and answer: the stream is out of step
            raise
        finally:
            timer.cancel()
        return answer

    def _running(self) -> tuple[subprocess.Popen[bytes], bool]:
        """The process, and whether it was started just now."""
        if self._owner != os.getpid():  # after a fork the process belongs to the parent
            self._process, self._owner = None, os.getpid()
        if self._process is not None and self._process.poll() is None:
            return self._process, False
        self._stop()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self._process, True

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():  # a forked child must not end its parent's
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was buffered for a dead process
                    stream.close()
