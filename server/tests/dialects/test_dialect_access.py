"""Keys, limits and unknown fields, as the two dialects show them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import SecretStr

from quire_server.anthropic.front_end import front_end as anthropic_front_end
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.responses.front_end import front_end as responses_front_end
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer

BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "x", "max_output_tokens": 1},
    "/v1/messages": {"model": "fake", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]},
}
PATHS = pytest.mark.parametrize("path", list(BODIES))


@pytest.fixture(scope="module")
def strict() -> Iterator[str]:
    """URL of a server with a key, in strict mode, that takes small bodies."""
    settings = ServeConfig(api_keys=[SecretStr("secret")], strict=True, max_body_bytes=2000)
    service = Service(FakeEngine(), settings, ServerMetrics())
    front_ends = [responses_front_end(service, None), anthropic_front_end(service, None)]
    with LiveServer(build_app(service, front_ends)) as server:
        yield server.url


@pytest.mark.parametrize("key", ["", "wrong"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/resp_1/cancel"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
    ],
)
def test_every_route_wants_the_key(strict: str, method: str, path: str, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    reply = httpx.request(method, strict + path, headers=headers)
    assert reply.status_code == 401
    body = reply.json()
    if path.startswith("/v1/messages"):
        assert body["type"] == "error"
        assert body["error"]["type"] == "authentication_error"
    else:
        assert body["error"]["code"] == "invalid_api_key"


def test_clients_show_the_key(strict: str) -> None:
    with openai.OpenAI(base_url=f"{strict}/v1", api_key="secret") as client:
        assert client.responses.create(**BODIES["/v1/responses"]).output_text == "u"
    with anthropic.Anthropic(base_url=strict, api_key="secret") as client:
        assert client.messages.create(**BODIES["/v1/messages"]).usage.output_tokens == 1
    with anthropic.Anthropic(base_url=strict, api_key="wrong", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            client.messages.create(**BODIES["/v1/messages"])
        assert caught.value.type == "authentication_error"


@PATHS
def test_large_bodies(strict: str, path: str) -> None:
    reply = httpx.post(strict + path, json={"a": "x" * 3000}, headers={"x-api-key": "secret"})
    assert reply.status_code == 413
    kind = reply.json()["error"]["type"]
    assert kind == ("request_too_large" if path == "/v1/messages" else "invalid_request_error")


@PATHS
def test_unknown_fields(served: Any, strict: str, path: str) -> None:
    body = {**BODIES[path], "odd": 1}
    reply = served.http.post(path, json=body)
    assert reply.status_code == 200
    assert reply.headers["x-quire-ignored-fields"] == "odd"
    reply = httpx.post(strict + path, json=body, headers={"x-api-key": "secret"})
    assert reply.status_code == 400
    assert "odd" in reply.json()["error"]["message"]


@PATHS
def test_what_is_no_json(served: Any, path: str) -> None:
    for content in (b"", b"{", b"null", b"[" * 5000, b"\xff", b"1" * 5000, b'{"input": "\\ud800"}'):
        reply = served.http.post(path, content=content, headers={"content-type": "application/json"})
        assert reply.status_code == 400
        assert reply.json()["error"]["type"] == "invalid_request_error"
