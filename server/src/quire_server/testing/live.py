"""A server for tests: an application behind real uvicorn, on a free port of loopback, in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvicorn

_PATIENCE = 10.0  # seconds


@contextmanager
def live(app: Any) -> Iterator[str]:
    """Serve an ASGI application while the block runs.

    Yields:
        Its base URL, without a slash at the end.

    Raises:
        TimeoutError: it did not start.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + _PATIENCE
        while not server.started:
            if time.monotonic() > until or not thread.is_alive():
                raise TimeoutError("The test's server did not start.")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_PATIENCE)
        listener.close()


def hang_up(url: str, path: str, body: Any, when: Callable[[], bool]) -> None:
    """Send a request and close the connection once a condition holds, without reading the answer.

    Raises:
        TimeoutError: it never held.
    """
    where = urlsplit(url)
    content = msgspec.json.encode(body)
    head = f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((where.hostname or "", where.port or 0)) as connection:
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
