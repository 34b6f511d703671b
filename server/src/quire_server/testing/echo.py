"""A small front end with one route of each sort, for tests of what every route has in common."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from quire import SamplingParams
from quire_server.errors import ApiError
from quire_server.front_end import FrontEnd
from quire_server.http.fields import RequestModel, examine
from quire_server.http.streaming import NDJSON, answered, streamed
from quire_server.service import Service, Work


class Message(RequestModel):
    """A part of a body."""

    role: str
    content: str | list[str] = ""


class EchoBody(RequestModel):
    """What `/echo/generate` takes."""

    prompt: str | list[int]
    max_tokens: int = Field(default=4, ge=1)
    temperature: float = 0.0
    stream: bool = False
    messages: list[Message] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)


def render_error(error: ApiError) -> dict[str, Any]:
    """A form that no other dialect has."""
    return {"echo_error": error.message, "param": error.param}


def front_end(service: Service, options: None = None) -> FrontEnd:
    """Routes under `/echo`; `/echo/open/{name}` is public."""
    router = APIRouter()

    @router.post("/echo/generate")
    async def generate(body: EchoBody, request: Request) -> Response:
        """A completion, whole or as NDJSON."""
        examine(request, body)
        params = SamplingParams(max_tokens=body.max_tokens, temperature=body.temperature)
        work = Work(
            prompts=[body.prompt], params=params, stream=body.stream, cache_salt=body.metadata.get("salt")
        )
        generation = await service.start(work)
        if not body.stream:
            (output,) = await answered(request, generation.collect())
            return Response(json.dumps({"text": output.outputs[0].text}), media_type="application/json")

        async def events() -> AsyncIterator[bytes]:
            async for _, output in generation:
                yield json.dumps({"text": output.outputs[0].text}).encode() + b"\n"

        return streamed(generation, events(), NDJSON)

    @router.get("/echo/open/{name}")
    async def open_to_all(name: str) -> dict[str, str]:
        """A public route with a template."""
        return {"name": name}

    @router.get("/echo/closed/{number}")
    async def closed(number: int, limit: int = 10) -> dict[str, int]:
        """A route with parameters in path and query."""
        return {"number": number, "limit": limit}

    @router.get("/echo/broken")
    async def broken() -> None:
        """A route with a mistake in it."""
        raise RuntimeError("at 0x7f00deadbeef in /usr/lib/secret.py with key sk-hidden")

    return FrontEnd(router, render_error, error_prefixes=("/echo",), public=frozenset({"/echo/open/{name}"}))
