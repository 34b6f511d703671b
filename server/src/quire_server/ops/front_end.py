"""The routes for operators: `/health /ready /version /metrics /quire/engine`.

Knows the service's state and no dialect. `/health` asks whether the process should live (a liveness probe
kills it otherwise), `/ready` whether it should get work.
"""

from __future__ import annotations

import platform
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

import quire
from quire_server.errors import unavailable
from quire_server.front_end import FrontEnd
from quire_server.metrics.exposition import Exposition
from quire_server.ops.engine_view import engine_view
from quire_server.service import Service

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_UNHEALTHY = {
    "stalled": "The engine does not respond.",
    "dead": "The engine has died.",
}


def front_end(service: Service, options: None = None) -> FrontEnd:
    """The operators' routes. Health and readiness are public; `/metrics` if `metrics_public` says so."""
    router = APIRouter(tags=["operations"])
    settings = service.settings

    @router.head("/health", include_in_schema=False)
    @router.get("/health")
    async def health() -> Response:
        """200 while the server is worth keeping: its engine works, or is being started."""
        reason = _UNHEALTHY.get(service.engine.health)
        if reason is not None:
            raise unavailable(reason, f"engine_{service.engine.health}")
        return JSONResponse({"status": "ok"})

    @router.head("/ready", include_in_schema=False)
    @router.get("/ready")
    async def ready() -> Response:
        """200 while the server takes work; else 503 with the reason."""
        service.check_ready()
        return JSONResponse({"status": "ready"})

    @router.get("/version")
    async def version() -> dict[str, str]:
        """Versions of what runs."""
        return {"version": quire.__version__, "python": platform.python_version()}

    @router.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics, summed over the server's processes."""
        exposition = Exposition(
            service.metrics, service.engine, service.model_names[0], vllm=settings.vllm_metrics
        )
        return Response(exposition.render(), media_type=_METRICS_TYPE)

    @router.get("/quire/engine")
    async def engine() -> dict[str, Any]:
        """The engine at this moment."""
        return engine_view(service)

    public = {"/health", "/ready"} | ({"/metrics"} if settings.metrics_public else set())
    return FrontEnd(router, public=frozenset(public))
