"""The routes of the Messages API: Anthropic's requests as `Work`, and back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from quire.errors import InvalidRequestError
from quire_server.anthropic.answer import Answer
from quire_server.anthropic.errors import render_error
from quire_server.anthropic.request import CountTokens, CreateMessage
from quire_server.errors import from_engine, naming
from quire_server.front_end import FrontEnd
from quire_server.http.fields import examine
from quire_server.http.streaming import answered, streamed
from quire_server.request_record import current_record
from quire_server.service import Generation, OpenedChat, Service, Work
from quire_server.service.sampling import sampling_params
from quire_server.service.structured import form_names

PATH = "/v1/messages"

_NAMES = {
    "stop": "stop_sequences",
    "prompt": "messages",
    "thinking_token_budget": "thinking.budget_tokens",
}


class Messages:
    """Endpoints."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def create(self, request: Request, body: CreateMessage) -> Response:
        """`POST /v1/messages`."""
        examine(request, body)
        model = self.service.model(body.model)
        body.check()
        with naming({**_NAMES, **form_names(body.form_field or "tools")}):
            generation, opened = await self._start(body)
        answer = Answer(model, generation, body.max_tokens, opened)
        if body.stream:
            return _identified(streamed(generation, answer.events()))
        return _identified(JSONResponse(await answered(request, answer.whole())))

    async def count_tokens(self, request: Request, body: CountTokens) -> Response:
        """`POST /v1/messages/count_tokens`."""
        examine(request, body)
        self.service.model(body.model)
        opened = await self.service.open_chat(body.chat())
        try:
            ids = await self.service.engine.tokenize(opened.prompt, add_special_tokens=False)
        except InvalidRequestError as error:
            raise from_engine(error) from error
        return _identified(JSONResponse({"input_tokens": len(ids)}))

    async def _start(self, body: CreateMessage) -> tuple[Generation, OpenedChat]:
        params = sampling_params(
            self.service.engine.get_default_sampling_params(),
            max_tokens=body.max_tokens,
            stop=body.stop_sequences,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            structured_outputs=body.structured_outputs(),
            thinking_token_budget=None if body.thinking is None else body.thinking.budget_tokens,
        )
        opened = await self.service.open_chat(body.chat())
        work = Work(
            prompts=[opened.prompt],
            params=opened.sampling(params),
            stream=True,
            add_special_tokens=False,
            continued=opened.continued,
        )
        return await self.service.start(work), opened


def _identified(response: Response) -> Response:
    """The response with its request's id where Anthropic's clients look for it."""
    record = current_record.get()
    if record is not None:
        response.headers["request-id"] = record.request_id
    return response


def front_end(service: Service, options: Any) -> FrontEnd:
    """The Messages API; takes no options."""
    endpoints = Messages(service)
    router = APIRouter(tags=["messages"])
    router.add_api_route(PATH, endpoints.create, methods=["POST"])
    router.add_api_route(PATH + "/count_tokens", endpoints.count_tokens, methods=["POST"])
    return FrontEnd(router=router, render_error=render_error, error_prefixes=(PATH,))
