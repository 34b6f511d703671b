"""A small server that speaks OpenAI's API and misbehaves on request, and a way to run `quire` here."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import pytest
import uvicorn
from click.testing import CliRunner, Result
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from quire.cli import main


class OpenAILike:
    """The server's rules and books.

    Attributes:
        next: behaviours of the next requests: "busy" (429), "later" (503), "error" (500), "break" (the stream
            breaks after two tokens), "stream_error", "no_done", "no_usage", "whole" (no stream), "garbage",
            "empty", "hang", "bad" (400), "text" (an answer that is not JSON). "" and none: as it should.
        bodies, headers: of the requests to the model, in order.
        gap: seconds before each token.
        retry_after: header of "busy".
        most: most requests at the same time.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.next: deque[str] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gap = 0.0
        self.retry_after: str | None = "0"
        self.models: list[str] = ["one", "two"]
        self.key: str | None = None
        self.running = self.most = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models(request: Request) -> Response:
            if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": {"message": "no key"}}, 401)
            return JSONResponse({"data": [{"id": name, "max_model_len": 99} for name in self.models]})

        @app.post("/v1/{rest:path}")
        async def anything(rest: str, request: Request) -> Response:
            with self._counted():
                return await self._answer(rest, request)

        return app

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield
        finally:
            self.running -= 1

    async def _answer(self, rest: str, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        how = self.next.popleft() if self.next else ""
        if how == "busy":
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            return JSONResponse({"error": {"message": "full"}}, 429, headers)
        if how in ("later", "error", "bad"):
            status = {"later": 503, "error": 500, "bad": 400}[how]
            return JSONResponse({"error": {"message": how}}, status, {"Retry-After": "0"})
        if how == "hang":
            await asyncio.sleep(1.0)
        if how == "text":
            return PlainTextResponse("<html>\nnot json</html>")
        if body.get("stream") and how != "whole":
            return StreamingResponse(self._stream(rest, body, how), media_type="text/event-stream")
        await asyncio.sleep(self.gap)
        return JSONResponse({"echo": body, "path": rest}, headers={"X-Request-Id": "from-the-server"})

    async def _stream(self, rest: str, body: dict[str, Any], how: str) -> AsyncIterator[str]:
        with self._counted():
            async for event in self._events(rest, body, how):
                yield event

    async def _events(self, rest: str, body: dict[str, Any], how: str) -> AsyncIterator[str]:
        chat = rest.startswith("chat")
        tokens = int(body["max_tokens"])

        def event(content: dict[str, Any]) -> str:
            return f"data: {json.dumps(content)}\r\n\r\n"

        def choice(text: str, finish: str | None = None, **more: Any) -> str:
            inner: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
            return event({"choices": [{"index": 0, **inner, "finish_reason": finish, **more}]})

        yield ": a comment\n\n"
        if chat:
            yield event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for i in range(0 if how == "empty" else tokens):
            await asyncio.sleep(self.gap)
            if i == 2 and how == "break":
                raise RuntimeError("broken on purpose")
            if i == 2 and how == "stream_error":
                yield event({"error": {"message": "died"}})
                return
            if i == 2 and how == "garbage":
                yield "data: {not json\n\n"
            ids: dict[str, Any] = {"token_ids": [7]} if body.get("return_token_ids") else {}
            yield choice("" if i == 0 else "x", **ids)  # the first may be half a character
        yield choice("", "length")
        if how != "no_usage":
            yield event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}})
        if how != "no_done":
            yield "data: [DONE]\n\n"


class Served(OpenAILike):
    """The server while it runs."""

    url: str


@pytest.fixture(scope="session")
def _served() -> Iterator[Served]:
    served = Served()
    config = uvicorn.Config(served.app(), port=0, log_level="critical", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    served.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield served
    server.should_exit = True
    thread.join()


@pytest.fixture
def served(_served: Served) -> Served:
    """A server that behaves until told otherwise."""
    _served.reset()
    return _served


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests must not reach them."""
    for name in list(os.environ):
        if name.startswith("QUIRE_") or name == "OPENAI_API_KEY" or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs `quire` in this process with the exit codes and messages of the entry point."""

    @click.command(
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False
    )
    @click.pass_context
    def frame(ctx: click.Context) -> None:
        sys.exit(main(ctx.args))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(frame, ["--", *arguments])

    return invoke
