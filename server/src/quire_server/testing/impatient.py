"""A client that hangs up, and waiting for what follows from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from quire_server.testing.live_server import LiveServer

_PATIENCE = 10.0  # seconds


def hang_up(server: LiveServer, path: str, body: Any, when: Callable[[], bool]) -> None:
    """Send a request, and close the connection once a condition holds; the answer is not read.

    Raises:
        TimeoutError: it never held.
    """
    content = msgspec.json.encode(body)
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    with server.connect() as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        wait_for(when)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it never did.
    """
    until = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("What the test waits for did not happen.")
        time.sleep(0.005)
