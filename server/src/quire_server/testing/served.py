"""Front ends around an engine that a test looks into: as an app in process, or behind a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.front_end import FrontEnd
from quire_server.metrics import ServerMetrics
from quire_server.service import Service
from quire_server.testing.fake_engine import FakeEngine
from quire_server.testing.live_server import LiveServer

__all__ = ["Served", "app_of", "serve"]

MakeFrontEnd = Callable[[Service, Any], FrontEnd]


def app_of(engine: FakeEngine, *front_ends: MakeFrontEnd, settings: ServeConfig | None = None) -> FastAPI:
    """An app of front ends without options; its service is `app.state.service`."""
    service = Service(engine, settings or ServeConfig(), ServerMetrics())
    return build_app(service, [make(service, None) for make in front_ends])


@dataclass(frozen=True, slots=True)
class Served:
    """A server under test.

    Attributes:
        server: the socket it listens on.
        engine: what answers.
        service: what the front ends share.
        http: a client of it.
    """

    server: LiveServer
    engine: FakeEngine
    service: Service
    http: httpx.Client

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.server.url

    def renew(self) -> None:
        """Have the engine be as a new one is, and the server open."""
        fresh = FakeEngine()
        for name in ("health", "delay", "refuse", "fail_after", "prompts", "params", "aborted"):
            setattr(self.engine, name, getattr(fresh, name))
        self.service.draining = False


@contextmanager
def serve(*front_ends: MakeFrontEnd, settings: ServeConfig | None = None) -> Iterator[Served]:
    """Front ends behind a real socket, around an engine of their own."""
    engine = FakeEngine()
    app = app_of(engine, *front_ends, settings=settings)
    with LiveServer(app) as server, httpx.Client(base_url=server.url, timeout=20) as http:
        yield Served(server, engine, app.state.service, http)
