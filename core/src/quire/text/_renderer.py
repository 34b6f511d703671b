"""Asks the process that renders chat templates.

Knows the worker's protocol and its limits; knows no messages and no tokenizer.
"""

from __future__ import annotations

import atexit
import json
import sys
import threading
from pathlib import Path
from typing import Any

from quire._confined import ConfinedProcess, DiedError, OverdueError
from quire.errors import CheckpointError, InvalidRequestError

__all__ = ["TemplateRenderer", "shared_renderer"]

_WORKER = Path(__file__).with_name("_template_worker.py")


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
        self._seconds = seconds
        # -P: the worker's folder holds modules of ours, which must not shadow others.
        self._process = ConfinedProcess([sys.executable, "-P", str(_WORKER)])

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
        answer = self._ask(asked)
        if "text" in answer:
            return str(answer["text"])
        if answer["kind"] == "raised":
            raise InvalidRequestError(
                f"The chat template refuses these messages: {answer['error']}", field="messages"
            )
        raise CheckpointError(
            f"The chat template failed: {answer['error']}. "
            "If the messages are what the model expects, correct the template: it is among the model's "
            "files, unless the call brought one."
        )

    def close(self) -> None:
        """End the process. A later `render` starts another one."""
        self._process.close()

    def _ask(self, asked: bytes) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._process.ask(asked, self._seconds))
        except OverdueError:
            return {"kind": "time", "error": f"it takes longer than {self._seconds:g} seconds"}
        except DiedError as error:
            return {"kind": "memory", "error": str(error)}
        return answer


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
