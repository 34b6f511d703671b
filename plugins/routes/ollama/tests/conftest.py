"""One live server per test module, with an engine that the tests look into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from quire_route_ollama.front_end import front_end
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer


@dataclass
class Live:
    """A server under test."""

    server: LiveServer
    url: str
    engine: FakeEngine
    service: Service
    http: httpx.Client


@pytest.fixture(scope="module")
def _served() -> Iterator[Live]:
    engine = FakeEngine()
    settings = ServeConfig(max_tokens_cap=400, served_model_name=["fake", "other:7b"])
    service = Service(engine, settings, ServerMetrics())
    app = build_app(service, [front_end(service, None)])
    with LiveServer(app) as server, httpx.Client(base_url=server.url, timeout=20) as http:
        yield Live(server, server.url, engine, service, http)


@pytest.fixture
def served(_served: Live) -> Live:
    """The server, with its engine as new."""
    fresh = FakeEngine()
    for name in ("health", "delay", "refuse", "fail_after", "prompts", "params", "aborted"):
        setattr(_served.engine, name, getattr(fresh, name))
    _served.service.draining = False
    return _served
