"""The routes of the Responses API.

Translates requests into `Work` and records into answers. What is stored lives in this process: with several
API processes nothing is stored, as the next request may reach another one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from quire_server.errors import ApiError, bad_request, naming, not_found
from quire_server.front_end import FrontEnd
from quire_server.http.fields import examine
from quire_server.http.streaming import answered, streamed
from quire_server.responses.background import begin
from quire_server.responses.events import events
from quire_server.responses.items import Message
from quire_server.responses.output import Output
from quire_server.responses.record import Record
from quire_server.responses.request import CreateResponse
from quire_server.responses.store import Kept, Store
from quire_server.service import Generation, OpenedChat, Service, Work
from quire_server.service.sampling import sampling_params
from quire_server.service.structured import form_names

PATH = "/v1/responses"

_NAMES = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "prompt": "input",
    "logprobs": "top_logprobs",
}

ResponseId = Annotated[str, Path(max_length=200)]


class Responses:
    """Endpoints. One per process, as its store is."""

    def __init__(self, service: Service, store: Store) -> None:
        self.service = service
        self.store = store

    async def create(self, request: Request, body: CreateResponse) -> Response:
        """`POST /v1/responses`."""
        examine(request, body)
        body.check()
        self._check_state(body)
        model = self.service.model(body.model)
        messages = [*self._earlier(body), *body.messages()]
        with naming({**_NAMES, **form_names(body.form_field or "tools")}):
            record, generation, opened = await self._start(body, model, messages)
        if body.background:
            await begin(record, generation, self.store)
            return JSONResponse(record.view())
        if body.stream:
            return streamed(generation, events(record, generation, self._ended, parses=opened.parses))
        await answered(request, self._whole(record, generation))
        return JSONResponse(record.view())

    async def retrieve(
        self, response_id: ResponseId, stream: Annotated[bool | None, Query()] = None
    ) -> Response:
        """`GET /v1/responses/{id}`."""
        if stream:
            raise bad_request("A stored response is not streamed; retrieve it whole.", "stream")
        return JSONResponse(self._kept(response_id).record.view())

    async def delete(self, response_id: ResponseId) -> Response:
        """`DELETE /v1/responses/{id}`."""
        kept = self._kept(response_id)
        self.store.remove(response_id)
        if kept.stop is not None:
            await kept.stop()
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    async def cancel(self, response_id: ResponseId) -> Response:
        """`POST /v1/responses/{id}/cancel`; one that has ended stays as it is."""
        kept = self._kept(response_id)
        if kept.stop is None:
            raise bad_request("Only a response that was created with background: true can be cancelled.")
        if not kept.record.ended:
            await kept.stop()
        return JSONResponse(kept.record.view())

    async def input_items(
        self,
        response_id: ResponseId,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> Response:
        """`GET /v1/responses/{id}/input_items`."""
        items = self._kept(response_id).record.inputs()
        if order == "desc":
            items.reverse()
        if after is not None:
            ids = [one["id"] for one in items]
            if after not in ids:
                raise bad_request(f"after names no item of this response: {after[:200]!r}.", "after")
            items = items[ids.index(after) + 1 :]
        page = items[:limit]
        return JSONResponse(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(items) > limit,
            }
        )

    async def _start(
        self, body: CreateResponse, model: str, messages: list[Message]
    ) -> tuple[Record, Generation, OpenedChat]:
        instructions: list[Message] = (
            [{"role": "system", "content": body.instructions}] if body.instructions else []
        )
        opened = await self.service.open_chat(body.chat([*instructions, *messages], self.service))
        params = sampling_params(
            self.service.engine.get_default_sampling_params(),
            max_tokens=body.max_output_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            logprobs=body.logprobs,
            structured_outputs=body.structured_outputs(),
        )
        work = Work(
            prompts=[opened.prompt], params=opened.sampling(params), stream=True, add_special_tokens=False
        )
        generation = await self.service.start(work)
        record = Record(
            body=body,
            model=model,
            temperature=params.temperature,
            top_p=params.top_p,
            messages=messages,
            store=self._shared is None and body.store is not False,
            output=Output(opened.parser()),
        )
        return record, generation, opened

    async def _whole(self, record: Record, generation: Generation) -> None:
        async with generation:
            async for _, output in generation:
                record.add(output)
        record.usage = generation.usage
        record.output.end(record.item_status)
        self._ended(record)

    def _ended(self, record: Record) -> None:
        if record.store:
            self.store.put(record)

    @property
    def _shared(self) -> str | None:
        """Why nothing is stored, or None."""
        workers = self.service.settings.api_workers
        if workers == 1:
            return None
        return (
            f"this server has {workers} API processes (api_workers), and a stored response would be known "
            "to one of them only."
        )

    def _check_state(self, body: CreateResponse) -> None:
        if self._shared is None:
            return
        for name in ("store", "background", "previous_response_id"):
            if getattr(body, name):
                raise bad_request(f"{name} cannot be served: {self._shared}", name, "unsupported_parameter")

    def _earlier(self, body: CreateResponse) -> list[Message]:
        if body.previous_response_id is None:
            return []
        record = self._kept(body.previous_response_id, "previous_response_id").record
        if record.status not in ("completed", "incomplete"):
            raise bad_request(
                f"The response {record.id!r} is {record.status}: only one that is completed or incomplete "
                "can be followed.",
                "previous_response_id",
            )
        return record.conversation

    def _kept(self, response_id: str, param: str = "response_id") -> Kept:
        kept = self.store.get(response_id)
        if kept is None:
            raise _unknown(response_id, param, self._shared)
        return kept


def _unknown(response_id: str, param: str, shared: str | None) -> ApiError:
    reason = "It was never stored, was deleted, or made room for later ones."
    if shared is not None:
        reason = f"Nothing is stored: {shared}"
    code = "previous_response_not_found" if param == "previous_response_id" else "response_not_found"
    return not_found(f"There is no response {response_id[:200]!r} here. {reason}", code=code, param=param)


def front_end(service: Service, options: Any) -> FrontEnd:
    """The Responses API; takes no options."""
    endpoints = Responses(service, Store())
    router = APIRouter(tags=["responses"])
    router.add_api_route(PATH, endpoints.create, methods=["POST"])
    router.add_api_route(PATH + "/{response_id}", endpoints.retrieve, methods=["GET"])
    router.add_api_route(PATH + "/{response_id}", endpoints.delete, methods=["DELETE"])
    router.add_api_route(PATH + "/{response_id}/cancel", endpoints.cancel, methods=["POST"])
    router.add_api_route(PATH + "/{response_id}/input_items", endpoints.input_items, methods=["GET"])
    return FrontEnd(router=router, error_prefixes=(PATH,))
