"""The routes of Ollama's API: its requests as `Work`, and back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import quire
from quire_route_ollama.answer import Answer, render_error
from quire_route_ollama.catalog import Catalog
from quire_route_ollama.json_route import JsonRoute
from quire_route_ollama.options import NAMES, Options, examine_all
from quire_route_ollama.request import ChatRequest, GenerateRequest, Prompted, ShowRequest
from quire_server.errors import bad_request, naming
from quire_server.front_end import FrontEnd
from quire_server.http.fields import examine
from quire_server.http.streaming import NDJSON, answered, streamed
from quire_server.service import Chat, OpenedChat, Service, Work
from quire_server.service.sampling import sampling_params
from quire_server.service.structured import form_names

PREFIX = "/api"


class Ollama:
    """Endpoints."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.catalog = Catalog(service)

    async def generate(self, request: Request, body: GenerateRequest) -> Response:
        """`POST /api/generate`."""
        answer = Answer(kind="generate", model=body.model, logprobs=body.num_logprobs)
        examine_all(request, body, body.options)
        self.catalog.check(body.model)
        if body.raw and body.system:
            raise bad_request("system cannot be served with raw: true: a raw prompt stands alone.", "system")
        if not body.prompt:
            return self._loaded(answer)
        if body.raw:
            return await self._answer(request, answer, body, body.prompt)
        opened = await self._open(body.chat(body.turns()))
        return await self._answer(request, answer, body, opened)

    async def chat(self, request: Request, body: ChatRequest) -> Response:
        """`POST /api/chat`."""
        answer = Answer(kind="chat", model=body.model, logprobs=body.num_logprobs)
        examine_all(request, body, body.options)
        self.catalog.check(body.model)
        turns = body.turns()
        if not turns:
            return self._loaded(answer)
        # As in Ollama, an answer that the client has begun is continued.
        begun = turns[-1]["role"] == "assistant" and "tool_calls" not in turns[-1]
        opened = await self._open(body.asked(turns, begun=begun))
        return await self._answer(request, answer, body, opened)

    async def tags(self) -> Response:
        """`GET /api/tags`."""
        return JSONResponse(self.catalog.tags())

    async def show(self, request: Request, body: ShowRequest) -> Response:
        """`POST /api/show`."""
        examine(request, body)
        name = body.model or body.name
        if name is None:
            raise bad_request("model is missing.", "model")
        self.catalog.check(name)
        return JSONResponse(self.catalog.show())

    async def running(self) -> Response:
        """`GET /api/ps`."""
        return JSONResponse(self.catalog.running())

    async def version(self) -> Response:
        """`GET /api/version`."""
        return JSONResponse({"version": quire.__version__})

    def _loaded(self, answer: Answer) -> Response:
        self.service.check_ready()
        return JSONResponse(answer.loaded())

    async def _open(self, chat: Chat) -> OpenedChat:
        with naming({"thinking": "think"}):
            return await self.service.open_chat(chat)

    async def _answer(
        self, request: Request, answer: Answer, body: Prompted, prompt: str | OpenedChat
    ) -> Response:
        options = body.options or Options()
        with naming({**NAMES, **form_names("format" if body.format else "tools")}):
            params = sampling_params(
                self.service.engine.get_default_sampling_params(),
                logprobs=body.num_logprobs,
                structured_outputs=body.structured_outputs(),
                **options.sampling(self.service.info.max_model_len),
            )
            if isinstance(prompt, OpenedChat):
                answer.parser = prompt.parser()
                params, text = prompt.sampling(params), prompt.prompt
            else:
                text = prompt
            generation = await self.service.start(
                Work(
                    prompts=[text],
                    params=params,
                    stream=True,
                    add_special_tokens=not isinstance(prompt, OpenedChat),
                )
            )
        if body.stream is False:
            return JSONResponse(await answered(request, answer.whole(generation)))
        return streamed(generation, answer.lines(generation), NDJSON)


def front_end(service: Service, options: Any) -> FrontEnd:
    """Ollama's API; takes no options."""
    endpoints = Ollama(service)
    router = APIRouter(prefix=PREFIX, tags=["ollama"], route_class=JsonRoute)
    router.add_api_route("/generate", endpoints.generate, methods=["POST"])
    router.add_api_route("/chat", endpoints.chat, methods=["POST"])
    router.add_api_route("/show", endpoints.show, methods=["POST"])
    router.add_api_route("/tags", endpoints.tags, methods=["GET"])
    router.add_api_route("/ps", endpoints.running, methods=["GET"])
    router.add_api_route("/version", endpoints.version, methods=["GET"])
    return FrontEnd(router=router, render_error=render_error, error_prefixes=(PREFIX,))
