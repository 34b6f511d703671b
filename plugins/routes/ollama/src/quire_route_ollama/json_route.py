"""`JsonRoute`: bodies are JSON, whatever their content type says.

Ollama's clients leave it out, and what curl sends by itself is a form's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response


class JsonRoute(APIRoute):
    """A route whose requests are taken for `application/json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind a change of the header."""
        handle = super().get_route_handler()

        async def as_json(request: Request) -> Response:
            others = [one for one in request.scope["headers"] if one[0] != b"content-type"]
            headers = [*others, (b"content-type", b"application/json")]
            return await handle(Request({**request.scope, "headers": headers}, request.receive))

        return as_json
