"""A small server that speaks enough of OpenAI's API for the commands that ask one."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeServer:
    """Speaks enough of OpenAI's API: answers a prompt with its words, or as it is told.

    Attributes:
        url: where it listens.
        models: what it lists.
        refusal: status, headers and body of every answer, if set.
        cut: end streams after so many words, without an end.
        error_event: send this object after the first word.
        thinking: what chats give as thinking, word by word, before they answer.
        hang: wait after the first word until the client has gone.
        asked: path, body and Authorization header of each request.
        gone: set when a client left in the middle of a stream.
    """

    url: str = ""
    models: list[str] = field(default_factory=lambda: ["first", "second"])
    refusal: tuple[int, dict[str, str], bytes] | None = None
    cut: int | None = None
    error_event: dict[str, Any] | None = None
    thinking: str = ""
    hang: bool = False
    asked: list[tuple[str, Any, str | None]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    @property
    def bodies(self) -> list[Any]:
        return [body for _, body, _ in self.asked if body is not None]


class _Handler(http.server.BaseHTTPRequestHandler):
    server_state: FakeServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        state = self.server_state
        state.asked.append((self.path, body, self.headers.get("Authorization")))
        if state.refusal is not None:
            self._send(*state.refusal)
        elif body is None:
            self._send_json({"data": [{"id": name} for name in state.models]})
        elif not body.get("stream"):
            self._send_json({"choices": [{"index": 0, "text": "a b", "finish_reason": "stop"}]})
        else:
            self._stream(body)

    def _send_json(self, content: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, body: Any) -> None:
        state = self.server_state
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        prompt = body.get("prompt") or " ".join(one["content"] for one in body["messages"])
        words = prompt.split(" ")
        for word in state.thinking.split():
            self._event({"id": "r1", "choices": [{"index": 0, "delta": {"reasoning_content": f"{word} "}}]})
        for count, word in enumerate(words):
            for index in range(body.get("n", 1)):
                part = {"text": f"{word} "} if "prompt" in body else {"delta": {"content": f"{word} "}}
                last = "stop" if count == len(words) - 1 else None
                self._event({"id": "r1", "choices": [{"index": index, **part, "finish_reason": last}]})
            if state.error_event is not None:
                self._event(state.error_event)
            if state.hang:
                self.connection.recv(1)  # nothing more is sent by a client: it returns when that has left
                state.gone.set()
                return
            if state.cut == count + 1:
                return
        self._event({"id": "r1", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 7}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, content: Any) -> None:
        self.wfile.write(f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()


@contextmanager
def serving() -> Iterator[FakeServer]:
    """A server that listens on the loopback."""
    state = FakeServer()
    handler = type("Handler", (_Handler,), {"server_state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        listening.daemon_threads = True
        state.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        listening.shutdown()
        thread.join()
