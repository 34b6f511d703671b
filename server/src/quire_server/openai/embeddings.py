"""`/v1/embeddings`: says why there are none."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from quire_server.errors import bad_request
from quire_server.http.fields import RequestModel, examine
from quire_server.service import Service


class EmbeddingBody(RequestModel):
    """What `/v1/embeddings` takes."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    input: Any = None
    encoding_format: Any = None
    dimensions: Any = None
    user: Any = None


def add_embeddings(router: APIRouter, service: Service) -> None:
    """Add the route."""

    @router.post("/v1/embeddings")
    async def create_embedding(request: Request, body: EmbeddingBody) -> Response:
        """Refused until a pooling model is loaded."""
        examine(request, body)
        name = service.model(body.model)
        raise bad_request(
            f"The model {name!r} generates text and has no pooling head, so it gives no embeddings. "
            "Serve an embedding model to use this route.",
            "model",
            "unsupported_model",
        )
