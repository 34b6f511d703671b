"""Tracing: a span per request, a child of the caller's; and the way out without the package."""

from __future__ import annotations

import sys

import pytest
from starlette.testclient import TestClient

from quire.errors import ConfigError
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.http.errors import ErrorForms
from quire_server.http.observer import ObserverMiddleware
from quire_server.http.tracing import Tracing, make_tracing
from quire_server.metrics import ServerMetrics
from quire_server.service import Service
from quire_server.testing import FakeEngine, echo

ENDPOINT = "http://127.0.0.1:1/v1/traces"


def test_no_endpoint_no_tracing() -> None:
    assert make_tracing(ServeConfig(), "m") is None


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    service = Service(FakeEngine(), ServeConfig(tracing_endpoint=ENDPOINT), ServerMetrics())
    with pytest.raises(ConfigError, match=r"pip install 'quire-server\[tracing\]'"):
        build_app(service, [])


def test_a_span_per_request() -> None:
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter = export.InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider, "m")
    service = Service(FakeEngine(), ServeConfig(), ServerMetrics())
    app = build_app(service, [echo.front_end(service)])
    traced = ObserverMiddleware(
        app, forms=ErrorForms([]), metrics=service.metrics, access_log=False, tracing=tracing
    )
    trace = "0af7651916cd43dd8448eb211c80319c"
    with TestClient(traced) as client:
        client.post(
            "/echo/generate",
            json={"prompt": "abc", "max_tokens": 3},
            headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        )
        client.get("/echo/broken")
    first, second = exporter.get_finished_spans()
    assert first.name == "POST /echo/generate"
    assert f"{first.context.trace_id:032x}" == trace
    assert first.attributes["gen_ai.request.model"] == "m"
    assert first.attributes["http.response.status_code"] == 200
    assert first.status.is_ok
    assert second.attributes["http.response.status_code"] == 500
    assert not second.status.is_ok
    tracing.close()
