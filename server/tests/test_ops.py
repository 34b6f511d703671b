"""The operators' routes: when a server is alive, when it is ready, and what it shows of the engine."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from quire.plugin_plan import Explanation, PlannedPlugin, PluginPlan
from quire.plugins import discover
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.ops.engine_view import percentiles
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine


def make_service(**settings: Any) -> Service:
    return Service(FakeEngine(), ServeConfig(**settings), ServerMetrics())


def client_of(service: Service) -> TestClient:
    return TestClient(build_app(service, [ops(service)]))


@pytest.mark.parametrize(
    ("health", "draining", "alive", "ready", "code"),
    [
        ("ready", False, 200, 200, None),
        ("ready", True, 200, 503, "draining"),
        ("loading", False, 200, 503, "engine_loading"),
        ("stalled", False, 503, 503, "engine_stalled"),
        ("dead", False, 503, 503, "engine_dead"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_and_readiness(
    health: Any, draining: bool, alive: int, ready: int, code: str | None, method: str
) -> None:
    service = make_service(api_keys=["k"])
    service.engine.health = health  # type: ignore[misc]
    service.draining = draining
    with client_of(service) as client:
        assert client.request(method, "/health").status_code == alive
        answer = client.request(method, "/ready")
    assert answer.status_code == ready
    if ready == 503:
        assert answer.headers["Retry-After"]
        if method == "GET":
            assert answer.json()["error"]["code"] == code


def test_version() -> None:
    with client_of(make_service()) as client:
        assert client.get("/version").json()["version"] == "0.1.0"


def test_the_route_is_registered() -> None:
    (spec,) = [one.spec for one in discover().of_kind("route") if one.spec.name == "ops"]
    assert spec.target == "quire_server.ops.front_end:front_end"


def test_the_live_view_tells_all_of_the_engine() -> None:
    service = make_service(served_model_name=["main", "alias"])
    engine = service.engine
    assert isinstance(engine, FakeEngine)
    plan = PluginPlan(
        {"attention/0": PlannedPlugin("attention", "torch", "quire-attn-torch", "0.1.0", "m:C")},
        (Explanation("attention/0", "quire-attn-torch:torch", "highest", (("x:triton", "runs on cuda"),)),),
    )
    engine.info = dataclasses.replace(engine.info, plugins=plan)
    service.metrics.first_token(0.5)
    for number in range(1, 101):
        service.metrics.next_token(number / 1000, now=0.0)
    with client_of(service) as client:
        view = client.get("/quire/engine").json()
    assert view["model"]["name"] == "main"
    assert view["model"]["aliases"] == ["alias"]
    assert view["model"]["max_model_len"] == 512
    assert view["latency"]["ttft"] == {"p50": 0.5, "p90": 0.5, "p99": 0.5}
    assert view["latency"]["itl"] == {"p50": 0.05, "p90": 0.09, "p99": 0.099}
    assert view["plugins"] == [
        {
            "role": "attention/0",
            "chosen": "quire-attn-torch:torch",
            "version": "0.1.0",
            "reason": "highest",
            "rejected": [{"name": "x:triton", "reason": "runs on cuda"}],
        }
    ]
    assert {"requests", "kv", "prefix_cache", "tokens", "steps", "time", "health", "draining"} <= set(view)
    assert "/" not in json.dumps(view["model"])  # no path of this machine


def test_percentiles_of_nothing() -> None:
    assert percentiles([]) is None
    assert percentiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0}
