"""`/v1/models`: what is served, under each of its names."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from quire_server.openai.answers import encode
from quire_server.service import Service


def add_models(router: APIRouter, service: Service) -> None:
    """Add the routes."""
    created = int(time.time())

    def card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "quire",
            "root": service.info.model,
            "parent": None,
            "max_model_len": service.info.max_model_len,
        }

    @router.get("/v1/models")
    async def list_models() -> Response:
        """Every name of the model."""
        cards = [card(name) for name in service.model_names]
        return Response(encode({"object": "list", "data": cards}), media_type="application/json")

    @router.get("/v1/models/{model_id:path}")
    async def retrieve_model(model_id: str) -> Response:
        """One name of the model."""
        return Response(encode(card(service.model(model_id))), media_type="application/json")
