"""Log lines: their two forms, the request they belong to, and what must never be in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.http.logging import configure_logging
from quire_server.metrics import ServerMetrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine, echo

Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Gives what has been logged; the root logger is left as it was, and the test's client is silent."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(logging.getLogger("httpx2"), "disabled", True)
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)


def serve(settings: ServeConfig) -> TestClient:
    configure_logging(settings)
    service = Service(FakeEngine(), settings, ServerMetrics())
    return TestClient(build_app(service, [ops(service), echo.front_end(service)]))


def test_json_lines_carry_the_request(written: Written) -> None:
    with serve(ServeConfig(log_format="json")) as client:
        client.post(
            "/echo/generate?token=hidden",
            json={"prompt": "abc", "max_tokens": 2},
            headers={"X-Request-Id": "r-1"},
        )
        client.get("/echo/broken", headers={"X-Request-Id": "r-2"})
    lines = [json.loads(line) for line in written().splitlines()]
    access = {line["request_id"]: line for line in lines if line["logger"] == "quire_server.access"}
    assert access["r-1"]["status"] == 200
    assert access["r-1"]["path"] == "/echo/generate"
    assert access["r-1"]["method"] == "POST"
    assert (access["r-1"]["prompt_tokens"], access["r-1"]["completion_tokens"]) == (4, 2)
    assert access["r-1"]["seconds"] > 0
    assert access["r-2"]["status"] == 500
    (failure,) = [line for line in lines if line["level"] == "error"]
    assert failure["request_id"] == "r-2"
    assert "RuntimeError" in failure["error"]


def test_text_lines_carry_the_request(written: Written) -> None:
    with serve(ServeConfig()) as client:
        client.get("/health", headers={"X-Request-Id": "r-1"})
    (line,) = [line for line in written().splitlines() if "quire_server.access" in line]
    assert "[r-1]" in line
    assert "GET /health 200" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_bodies_no_keys_no_queries_no_forged_lines(written: Written, form: str) -> None:
    settings = ServeConfig.model_validate(
        {"log_format": form, "log_level": "debug", "api_keys": ["open-sesame"]}
    )
    with serve(settings) as client:
        for key in ("open-sesame", "wrong-sesame"):
            headers = {"Authorization": f"Bearer {key}"}
            client.post("/echo/generate?q=queried", json={"prompt": "confidential"}, headers=headers)
            client.post("/echo/generate", json={"prompt": {"confidential": 1}}, headers=headers)
            client.get("/a%0aFORGED%20line%1b[31m", headers=headers)
    lines = written()
    assert "/echo/generate" in lines
    for secret in ("sesame", "confidential", "queried", "\x1b", "\nFORGED"):
        assert secret not in lines


def test_messages_of_others_stay_on_one_line(written: Written) -> None:
    configure_logging(ServeConfig())
    logging.getLogger("quire.somewhere").warning("a\nb\rc")
    assert written().endswith("quire.somewhere a\\nb\\rc\n")


def test_level_and_access_log_can_be_turned_down(written: Written) -> None:
    with serve(ServeConfig(access_log=False)) as client:
        client.get("/health")
    assert "/health" not in written()
    with serve(ServeConfig(log_level="warning")) as client:
        client.get("/health")
    assert "/health" not in written()


def test_configuring_twice_writes_lines_once(written: Written) -> None:
    configure_logging(ServeConfig())
    configure_logging(ServeConfig())
    logging.getLogger("quire").warning("once")
    assert written().count("once") == 1
