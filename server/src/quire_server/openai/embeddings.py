"""`/v1/embeddings`: says why there are none."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import ConfigDict
from starlette.responses import Response

from quire_server.errors import bad_request
from quire_server.http.fields import RequestModel
from quire_server.service import Service


class EmbeddingBody(RequestModel):
    """What `/v1/embeddings` takes."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    input: Any = None


def add_embeddings(router: APIRouter, service: Service) -> None:
    """Add the route."""

    @router.post("/v1/embeddings")
    async def create_embedding(body: EmbeddingBody) -> Response:
        """Refused until a pooling model is loaded."""
        name = service.model(body.model)
        raise bad_request(
            f"The model {name!r} generates text and has no pooling head, so it gives no embeddings. "
            "Serve an embedding model to use this route.",
            "model",
            "unsupported_model",
        )
