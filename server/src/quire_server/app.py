"""`build_app`: the service and its front ends as one ASGI application.

Knows every layer of the frame and in which order they stand. Knows no dialect and no engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from quire.errors import ConfigError, PluginError
from quire_server.front_end import FrontEnd
from quire_server.http.body import BodyMiddleware
from quire_server.http.errors import ErrorForms, handlers
from quire_server.http.keys import KeyMiddleware, KeyRing
from quire_server.http.observer import ObserverMiddleware
from quire_server.http.tracing import make_tracing
from quire_server.service import Service

EXPOSED_HEADERS = ("X-Request-Id", "X-Quire-Ignored-Fields", "Retry-After")
"""Response headers that scripts of other origins may read."""


class _App(FastAPI):
    """FastAPI, but its schema tells the truth about invalid requests: they get 400."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        for path in schema["paths"].values():
            for operation in path.values():
                invalid = operation["responses"].pop("422", None)
                if invalid is not None:
                    operation["responses"]["400"] = {"description": "The request is not valid."}
        return schema


def build_app(service: Service, front_ends: Sequence[FrontEnd]) -> FastAPI:
    """The application that serves some front ends.

    Its `/openapi.json` describes the routes and needs a key like any other; there are no documentation pages,
    as those load scripts from elsewhere. `app.state.service` is the service.

    Args:
        service: what the front ends were made with.
        front_ends: in the order in which their routes are tried.

    Raises:
        ConfigError: a setting cannot be met: keys, root_path, tracing.
        PluginError: a front end calls a path public that it has no route for.
    """
    settings = service.settings
    forms = ErrorForms(front_ends)
    tracing = make_tracing(settings, service.model_names[0])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if tracing is not None:
            tracing.close()

    app = _App(
        title="Quire",
        version=version("quire-server"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the target would be built from the Host header, which anyone can write
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # there is one span per request: ours
        exception_handlers=handlers(forms),
    )
    app.state.service = service
    for front_end in front_ends:
        # The routes themselves, not the router as a whole: `app.routes` then shows what can be reached, in
        # the order in which it is tried, and keys are asked for by the same list.
        app.router.routes.extend(front_end.router.routes)
    # The last one added is the outermost.
    app.add_middleware(BodyMiddleware, settings=settings, forms=forms, metrics=service.metrics)
    app.add_middleware(
        KeyMiddleware,
        keys=KeyRing.from_settings(settings),
        routes=app.routes,
        public=public_paths(front_ends),
        forms=forms,
        metrics=service.metrics,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(
        ObserverMiddleware,
        root_path=_root_path(settings.root_path),
        forms=forms,
        metrics=service.metrics,
        access_log=settings.access_log,
        tracing=tracing,
    )
    return app


def public_paths(front_ends: Sequence[FrontEnd]) -> frozenset[str]:
    """Paths, as routes declare them, that need no key.

    Raises:
        PluginError: a front end has no such route, or another front end has the same path and wants a key.
    """
    closed = {path: index for index, one in enumerate(front_ends) for path in _paths(one) - one.public}
    for index, one in enumerate(front_ends):
        for path in one.public:
            if path not in _paths(one):
                raise PluginError(f"A front end calls {path!r} public, but has no such route.")
            if closed.get(path, index) != index:
                raise PluginError(f"Two front ends have {path!r}, and only one of them calls it public.")
    return frozenset().union(*(one.public for one in front_ends))


def _paths(front_end: FrontEnd) -> set[str]:
    return {str(getattr(route, "path", "")) for route in front_end.router.routes}


def _root_path(path: str) -> str:
    if path and not path.startswith("/"):
        raise ConfigError(f"serve.root_path {path!r} must begin with '/'.")
    return path.rstrip("/")
