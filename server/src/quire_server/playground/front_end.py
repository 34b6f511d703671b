"""The playground's routes: the page at `/` and its files under `/playground/`.

All are public, as they hold nothing of the model; what the page then calls asks for the key. Knows no
dialect and submits no work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from quire_server.front_end import FrontEnd
from quire_server.playground.assets import Asset, load_assets
from quire_server.service import Service

PAGE = "index.html"


def front_end(service: Service, options: None) -> FrontEnd:
    """The page, or a front end without routes where the settings turn it off."""
    router = APIRouter()
    if not service.settings.playground:
        return FrontEnd(router=router)
    paths: set[str] = set()
    for asset in load_assets():
        # A route per file: what is served, and needs no key, is a list and not a pattern.
        path = "/" if asset.name == PAGE else f"/playground/{asset.name}"
        router.add_api_route(
            path,
            _sender(asset),
            methods=["GET", "HEAD"],
            response_class=Response,
            include_in_schema=False,
            name=f"playground:{asset.name}",
        )
        paths.add(path)
    return FrontEnd(router=router, public=frozenset(paths))


def _sender(asset: Asset) -> Callable[[Request], Awaitable[Any]]:
    async def send(request: Request) -> Response:
        return asset.response(request)

    return send
