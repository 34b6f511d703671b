"""Starts, asks and stops the process that renders chat templates.

Knows the worker's protocol and its limits; knows no messages and no tokenizer.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from quire.errors import CheckpointError, InvalidRequestError

__all__ = ["TemplateRenderer", "shared_renderer"]

_WORKER = Path(__file__).with_name("_template_worker.py")
_START_SECONDS = 30.0  # on a machine that is busy with something else
_SIGXCPU = getattr(signal, "SIGXCPU", 0)


class TemplateRenderer:
    """Renders templates within limits of time, memory and output, in a process of its own.

    The process starts with the first template (about a tenth of a second), stays, and is replaced
    when a template had to be stopped. It ends with `close`, with this process, or on its own CPU
    limit. Threads take turns.

    Args:
        seconds: for one rendering; waiting for other threads and starting do not count.
        memory: address space of the process, bytes.
        output: characters of the result.
    """

    def __init__(self, *, seconds: float = 5.0, memory: int = 1 << 30, output: int = 1 << 24) -> None:
        self._limits = {"seconds": seconds, "memory": memory, "output": output}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """The text that `template` makes of `variables`.

        Raises:
            InvalidRequestError: the template refused its input, or the input is not plain JSON.
            CheckpointError: the template is broken, or went beyond a limit.
        """
        try:
            asked = json.dumps(
                {"template": template, "variables": variables, "limits": self._limits}, allow_nan=False
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequestError(
                f"Messages and template arguments must be plain JSON values: {error}.", field="messages"
            ) from error
        with self._lock:
            answer = self._ask(asked)
        if "text" in answer:
            return str(answer["text"])
        if answer["kind"] == "raised":
            raise InvalidRequestError(
                f"The model's chat template refuses these messages: {answer['error']}", field="messages"
            )
        raise CheckpointError(
            f"The model's chat template failed: {answer['error']}. "
            "If the messages are what the model expects, correct the template in the model's files."
        )

    def close(self) -> None:
        """End the process. A later `render` starts another one."""
        with self._lock:
            self._stop()

    def _ask(self, asked: bytes) -> dict[str, Any]:
        process, grace = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        # Killing the process ends a blocked read or write, on every platform and for any descriptor.
        timer = threading.Timer(self._limits["seconds"] + grace, end)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(struct.pack(">I", len(asked)) + asked)
            process.stdin.flush()
            head = process.stdout.read(4)
            if len(head) < 4:
                raise EOFError
            answer: dict[str, Any] = json.loads(process.stdout.read(struct.unpack(">I", head)[0]))
        except (EOFError, OSError, ValueError):
            self._stop()
            if late.is_set() or process.returncode == -_SIGXCPU:
                return {"kind": "time", "error": f"it takes longer than {self._limits['seconds']:g} seconds"}
            return {"kind": "memory", "error": f"it ended its process (status {process.returncode})"}
        except BaseException:
            self._stop()  # interrupted between request and answer: the stream is out of step
            raise
        finally:
            timer.cancel()
        return answer

    def _running(self) -> tuple[subprocess.Popen[bytes], float]:
        """The process, and the seconds that it may need to start."""
        if self._owner != os.getpid():  # after a fork the process belongs to the parent
            self._process, self._owner = None, os.getpid()
        if self._process is not None and self._process.poll() is None:
            return self._process, 0.0
        self._stop()
        # -P: the worker's folder holds modules of ours, which must not shadow others.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._process, _START_SECONDS

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what was buffered for a dead process
                    stream.close()


_shared: TemplateRenderer | None = None
_shared_lock = threading.Lock()


def shared_renderer() -> TemplateRenderer:
    """The renderer that this process shares among its models."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = TemplateRenderer()
            atexit.register(_shared.close)
        return _shared
