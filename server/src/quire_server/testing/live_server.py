"""An app behind a real uvicorn on loopback, in a thread of this process: for what only real sockets show."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

import uvicorn
from fastapi import FastAPI

from quire_server.http.protocol import uvicorn_config

_PATIENCE = 10.0  # seconds


class LiveServer:
    """Serves an app while its `with` block runs.

    Attributes:
        url: "http://127.0.0.1:PORT".
        address: host and port.
    """

    def __init__(self, app: FastAPI) -> None:
        settings = app.state.service.settings
        self._server = uvicorn.Server(uvicorn_config(settings, app))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + _PATIENCE
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("The server did not start.")
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_PATIENCE)
        self._socket.close()

    def connect(self) -> socket.socket:
        """A connection, on which reads time out after some seconds."""
        return socket.create_connection(self.address, timeout=_PATIENCE)

    def exchange(self, data: bytes) -> bytes:
        """Send bytes as they are; all that comes back until the server closes the connection."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts: list[bytes] = []
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:  # it closed with bytes of ours unread
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)
