"""The playground behind a real uvicorn, with a stand-in for the APIs it calls, and a browser to look."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from quire import Logprob, SamplingParams
from quire.contracts import Reasoning
from quire_server.config import ServeConfig
from quire_server.errors import ApiError, unauthorized
from quire_server.front_end import openai_error
from quire_server.http.streaming import streamed
from quire_server.metrics import ServerMetrics
from quire_server.playground.front_end import front_end
from quire_server.service import AnswerParser, Chat, Generation, Service, Work
from quire_server.testing import FakeEngine

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SAMPLING = ("temperature", "top_k", "max_tokens", "seed", "n", "stop")


class Site:
    """The page, and OpenAI's routes as far as it uses them, over the fake engine.

    Attributes:
        engine: the fake; set its delay and refusals as the test needs.
        view: what `/quire/engine` says; at every look its clock goes on by half a second and its
            generated tokens by 50.
        looks: how often it was asked.
        key: what callers of the API must show; None for nothing.
        error: what the next requests for text fail with, while not None.
        bodies: of all requests for text.
        url: where the page is.
    """

    def __init__(self) -> None:
        self.engine = FakeEngine(delay=0.005)
        self.service = Service(self.engine, ServeConfig(), ServerMetrics())
        self.view: dict[str, Any] = _view()
        self.looks = 0
        self.key: str | None = None
        self.error: ApiError | None = None
        self.bodies: list[dict[str, Any]] = []
        self.url = ""

    def app(self) -> FastAPI:
        """The application."""
        app = FastAPI()
        page = front_end(self.service, None)
        app.include_router(page.router)

        @app.middleware("http")
        async def guard(request: Request, call_next: Any) -> Response:
            shown = request.headers.get("authorization")
            if request.url.path not in page.public and self.key and shown != f"Bearer {self.key}":
                return _refusal(unauthorized("A valid API key is needed."))
            answer: Response = await call_next(request)
            return answer

        app.add_api_route("/v1/models", self._models)
        app.add_api_route("/quire/engine", self._look)
        app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"])
        app.add_api_route("/v1/completions", self._complete, methods=["POST"])
        return app

    async def _models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "fake", "object": "model"}]}

    async def _look(self) -> dict[str, Any]:
        self.looks += 1
        self.view["time"] += 0.5
        self.view["tokens"]["generation"] += 50
        return self.view

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        opened = await self.service.open_chat(Chat(messages=body["messages"]))
        asked = body.get("top_logprobs") if body.get("logprobs") else None
        return await self._answer(body, opened.prompt, asked, opened.parser())

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        return await self._answer(body, body["prompt"], body.get("logprobs"))

    async def _answer(
        self, body: dict[str, Any], prompt: str, logprobs: int | None, parser: AnswerParser | None = None
    ) -> Response:
        self.bodies.append(body)
        if self.error is not None:
            return _refusal(self.error)
        given = {name: body[name] for name in SAMPLING if name in body}
        params = SamplingParams(**{"max_tokens": 64} | given, logprobs=logprobs)
        try:
            generation = await self.service.start(
                Work(
                    prompts=[prompt], params=params, stream=bool(body.get("stream")), add_special_tokens=False
                )
            )
        except ApiError as error:
            return _refusal(error)
        chat = "messages" in body
        if body.get("stream"):
            return streamed(generation, _events(generation, chat, parser))
        choices = [_choice(one, chat, "message") for one in (await generation.collect())[0].outputs]
        return JSONResponse(
            {
                "id": "1",
                "object": "x",
                "created": 0,
                "model": "fake",
                "choices": choices,
                "usage": _usage(generation),
            }
        )


def _refusal(error: ApiError) -> Response:
    return JSONResponse(openai_error(error), error.status, error.headers)


async def _events(generation: Generation, chat: bool, parser: AnswerParser | None) -> AsyncIterator[bytes]:
    head = {"id": "1", "object": "x", "created": 0, "model": "fake"}
    try:
        async for _, output in generation:
            for one in output.outputs:
                choice = _choice(one, chat, "delta")
                if parser is not None:
                    choice["delta"] = _read(parser, one.text)
                yield _event(head | {"choices": [choice]})
        yield _event(head | {"choices": [], "usage": _usage(generation)})
        yield b"data: [DONE]\n\n"
    except ApiError as error:
        yield _event(openai_error(error))


def _read(parser: AnswerParser, text: str) -> dict[str, str]:
    """A delta: what the parser makes of a piece of one answer."""
    delta = {"content": ""}
    for event in parser.feed(text):
        name = "reasoning_content" if isinstance(event, Reasoning) else "content"
        delta[name] = delta.get(name, "") + getattr(event, "text", "")
    return delta


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _choice(one: Any, chat: bool, holder: str) -> dict[str, Any]:
    places = one.logprobs or []
    choice: dict[str, Any] = {"index": one.index, "finish_reason": one.finish_reason, "logprobs": None}
    choice |= {holder: {"role": "assistant", "content": one.text}} if chat else {"text": one.text}
    if places and chat:
        choice["logprobs"] = {
            "content": [
                _named(place[token]) | {"top_logprobs": [_named(other) for other in place.values()]}
                for token, place in zip(one.token_ids, places, strict=True)
            ]
        }
    elif places:
        choice["logprobs"] = {
            "tokens": [
                place[token].decoded_token for token, place in zip(one.token_ids, places, strict=True)
            ],
            "token_logprobs": [
                place[token].logprob for token, place in zip(one.token_ids, places, strict=True)
            ],
            "top_logprobs": [{o.decoded_token: o.logprob for o in place.values()} for place in places],
        }
    return choice


def _named(one: Logprob) -> dict[str, Any]:
    text = one.decoded_token or ""
    return {"token": text, "logprob": one.logprob, "bytes": list(text.encode())}


def _usage(generation: Generation) -> dict[str, int]:
    usage = generation.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _view() -> dict[str, Any]:
    return {
        "time": 0.0,
        "health": "ready",
        "draining": False,
        "model": {
            "name": "fake",
            "aliases": [],
            "architecture": "FakeForCausalLM",
            "dtype": "float32",
            "device": "cpu",
            "num_parameters": 1_234_567,
            "vocab_size": 258,
            "max_model_len": 512,
            "max_num_seqs": 8,
            "max_logprobs": 20,
            "weights_bytes": 3 * 2**20,
            "sampling_defaults": {"temperature": 0.6},
        },
        "requests": {"running": 3, "waiting": 2, "preemptions": 1},
        "kv": {
            "block_size": 16,
            "num_blocks": 64,
            "bytes": 2**20,
            "groups": [{"free": 16, "used": 32, "cached": 16, "total": 64}],
        },
        "prefix_cache": {"enabled": True, "queries": 200, "hits": 50},
        "tokens": {"prompt": 0, "generation": 0},
        "steps": {"count": 10, "seconds": 0.1},
        "latency": {"ttft": {"p50": 0.04, "p90": 0.1, "p99": 0.2}, "itl": None},
        "plugins": [
            {
                "role": "attention/0",
                "chosen": "quire-attn-torch:torch",
                "version": "0.1.0",
                "reason": "the only one that fits",
                "rejected": [{"name": "other:flash", "reason": "needs another device"}],
            }
        ],
    }


@pytest.fixture
def site() -> Iterator[Site]:
    """A site of the test's own, being served."""
    with serving() as one:
        yield one


@contextmanager
def serving() -> Iterator[Site]:
    """A new site, at a port of its own."""
    one = Site()
    server = uvicorn.Server(uvicorn.Config(one.app(), log_level="error", ws="none", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.005)
        yield one
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium. For a module: Playwright's loop runs while it lives, and no other can beside it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: neither `chromium` nor `chromium-browser` is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """A fresh profile. Whatever a page does in it: no errors in the console, nothing leaves this machine."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=site.url)
    context.set_default_timeout(10_000)
    hosts: set[str | None] = set()
    problems: list[str] = []
    context.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.on(
        "console",
        # The browser notes every refusal of the API by itself; what the page makes of it is tested.
        lambda message: (
            problems.append(message.text)
            if message.type in ("error", "warning")
            and "the server responded with a status" not in message.text
            else None
        ),
    )
    context.on(
        "response",
        lambda response: (
            problems.append(f"{response.status} {response.url}")
            if response.status >= 400 and "/v1/" not in response.url and "/quire/" not in response.url
            else None
        ),
    )
    yield context
    context.close()
    assert problems == []
    assert hosts <= {"127.0.0.1"}


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """The playground, loaded."""
    page = context.new_page()
    page.goto("/")
    expect(page.locator("#model option")).to_have_count(1)
    return page


@pytest.fixture(scope="module")
def scripts(browser: Browser) -> Iterator[Page]:
    """A page whose scripts a module's tests call one by one; they leave nothing behind."""
    with serving() as site:
        page = browser.new_page(base_url=site.url)
        page.goto("/")
        yield page
        page.close()


@pytest.fixture
def static() -> Path:
    """The folder of the page's files."""
    import quire_server.playground

    return Path(quire_server.playground.__file__).parent / "static"
