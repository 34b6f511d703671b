"""Who may ask for what: the frame's rules, odd paths, keys from settings and files."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from quire.errors import ConfigError
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.front_end import FrontEnd
from quire_server.http.keys import KeyRing
from quire_server.metrics import ServerMetrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer, echo, read_all

KEYS = ["first-key", "second-key"]

PUBLIC = {"/health", "/ready"}
"""Routes that answer without a key, whatever is configured."""


def make_service(**settings: Any) -> Service:
    return Service(FakeEngine(), ServeConfig(**settings), ServerMetrics())


def routes_of(service: Service, front_ends: list[FrontEnd]) -> list[tuple[str, str]]:
    """(path as declared, method) of everything that the app answers."""
    return [
        (route.path, method)  # type: ignore[attr-defined]
        for route in build_app(service, front_ends).routes
        for method in sorted(getattr(route, "methods", None) or {"GET"})
    ]


def concrete(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "1", path)


def test_nothing_is_public_beside_what_front_ends_say() -> None:
    service = make_service(api_keys=KEYS)
    front_ends = [ops(service), echo.front_end(service)]
    with TestClient(build_app(service, front_ends)) as client:
        answers = {
            path: client.request(method, concrete(path)).status_code
            for path, method in routes_of(service, front_ends)
        }
    assert {path for path, status in answers.items() if status != 401} == PUBLIC | {"/echo/open/{name}"}


def test_metrics_are_public_only_if_said() -> None:
    for public in (False, True):
        service = make_service(api_keys=KEYS, metrics_public=public)
        with TestClient(build_app(service, [ops(service)])) as client:
            assert client.get("/metrics").status_code == (200 if public else 401)


def test_without_keys_everything_is_open() -> None:
    service = make_service()
    with TestClient(build_app(service, [ops(service)])) as client:
        assert client.get("/version").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer second-key"},
        {"Authorization": "Bearer   second-key "},
        {"x-api-key": "second-key"},
        {"x-api-key": "first-key", "Authorization": "Bearer wrong"},
    ],
)
def test_any_key_opens_in_either_header(headers: dict[str, str]) -> None:
    service = make_service(api_keys=KEYS)
    with TestClient(build_app(service, [ops(service)])) as client:
        assert client.get("/version", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"Authorization": "Bearer first-key second-key"},
        {"Authorization": "Bearer first-ke"},
        {"Authorization": "Bearer first-key\xe9"},
        {"x-api-key": ""},
        {"x-api-key": "Bearer first-key"},
        {"Cookie": "x-api-key=first-key"},
    ],
)
def test_nothing_else_does(headers: dict[str, str]) -> None:
    service = make_service(api_keys=KEYS)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    with TestClient(build_app(service, [ops(service)])) as client:
        answer = client.get("/version?api_key=first-key", headers=raw)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_401_takes_the_dialects_form() -> None:
    service = make_service(api_keys=KEYS)
    with TestClient(build_app(service, [echo.front_end(service)])) as client:
        assert "echo_error" in client.get("/echo/nothing").json()
        assert "error" in client.get("/nothing").json()


@pytest.mark.parametrize("shown", ["first-key", "second-key", "third-key", ""])
def test_a_key_is_compared_with_all_in_constant_time(shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ring, compared = KeyRing(KEYS), []
    real = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert ring.opens(shown.encode()) == (shown in KEYS)
    assert compared == [(32, 32)] * len(KEYS)


def test_keys_come_from_settings_and_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# staff\nfrom-file-1\n\n  from-file-2  \n#from-file-3\n")
    ring = KeyRing.from_settings(ServeConfig(api_keys=KEYS, api_key_file=path))
    opened = [
        one for one in ("first-key", "from-file-1", "from-file-2", "from-file-3") if ring.opens(one.encode())
    ]
    assert opened == ["first-key", "from-file-1", "from-file-2"]
    assert not any(key in repr(vars(ring)) for key in KEYS)


@pytest.mark.parametrize("content", [None, "", "# only a comment\n", "two words\n", "n\xf6n-ascii\n"])
def test_a_useless_key_file_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match="key"):
        KeyRing.from_settings(ServeConfig(api_key_file=path))


def test_an_empty_key_does_not_open_the_server_silently() -> None:
    with pytest.raises(ConfigError, match="empty"):
        make_client_with_keys([""])


def make_client_with_keys(some: list[str]) -> None:
    build_app(make_service(api_keys=some), [])


@pytest.mark.parametrize("first", [True, False])
def test_a_mounted_application_is_public_as_a_whole_and_alone(first: bool) -> None:
    """Static files, say. Whatever the order of front ends, a mount lends its freedom to nothing beside it."""
    router = APIRouter()
    router.mount("/assets", PlainTextResponse("static"))
    service = make_service(api_keys=KEYS)
    static = FrontEnd(router, public=frozenset({"/assets"}))
    front_ends = [static, ops(service)] if first else [ops(service), static]
    with TestClient(build_app(service, front_ends)) as client:
        for path in ("/assets/", "/assets/app.js", "/assets/..%2fversion", "/assets/%2e%2e/version"):
            assert client.get(path).text == "static"
        for path in ("/assetsx", "/ASSETS/", "//assets/", "/version", "/x/assets/app.js"):
            assert client.get(path).status_code == 401


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    service = make_service(api_keys=KEYS)
    with LiveServer(build_app(service, [ops(service), echo.front_end(service)])) as server:
        yield server


TARGETS = [
    "/version",
    "//version",
    "/version/",
    "/./version",
    "/health/../version",
    "/health/..%2fversion",
    "/health%2f..%2fversion",
    "/%76ersion",
    "/version%00",
    "/version%0a",
    "/version;/health",
    "/version?/health",
    "/version#/health",
    "/health/version",
    "/health%20/version",
    "/echo/open/%2e%2e%2fclosed%2f1",
    "/echo/open/../closed/1",
    "/echo/open/x/../../closed/1",
    "/echo/closed/1",
    "/Version",
    "/VERSION",
    "http://127.0.0.1/version",
    "http://user@/version",
    "/\\version",
    "/..;/version",
    "*",
    "/nothing",
    "/metrics",
    "/quire/engine",
    "/quire//engine",
]
ATTEMPTS = [
    f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{extra}Connection: close\r\n\r\n"
    for target in TARGETS
    for method, host, extra in (
        ("GET", "x", ""),
        ("HEAD", "x", ""),
        ("OPTIONS", "x", ""),
        ("GET", "x/health?", ""),
        ("GET", "x", "X-Original-URL: /health\r\nX-Rewrite-URL: /health\r\nX-HTTP-Method-Override: HEAD\r\n"),
        (
            "GET",
            "x",
            "X-Forwarded-Prefix: /health\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n",
        ),
        ("BREW", "x", ""),
    )
]
SMUGGLED = [
    (
        "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    ),
    (
        "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n"
        "GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    ),
    (
        "POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n"
        "0\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    ),
    "GET /health HTTP/1.1\r\nHost: x\r\nX: a\nAuthorization: Bearer wrong\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
]


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


@pytest.mark.parametrize("attempt", ATTEMPTS + SMUGGLED)
def test_no_spelling_of_a_request_gets_past_the_keys(live: LiveServer, attempt: str) -> None:
    """Whatever answers 200 without a key is public; what is behind the keys never shows."""
    if "\r\nConnection: close" not in attempt:
        attempt += "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = live.exchange(attempt.encode())
    assert statuses(answer)
    assert set(statuses(answer)) <= {200, 400, 401, 405}
    for secret in (
        b'"python"',
        b"quire_http_requests",
        b'"num_parameters"',
        b'"number"',
        b"Not Found",
        b"nothing at",
    ):
        assert secret not in answer


def test_with_a_key_the_same_server_answers(live: LiveServer) -> None:
    request = "GET /version HTTP/1.1\r\nHost: x\r\nX-Api-Key: first-key\r\nConnection: close\r\n\r\n"
    assert b'"python"' in live.exchange(request.encode())


def test_websockets_are_refused(live: LiveServer) -> None:
    request = (
        "GET /version HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
        "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert statuses(live.exchange(request.encode())) == [401]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 400])
def test_an_offer_of_http2_is_declined_and_the_request_served(
    live: LiveServer, chunked: bool, pieces: int
) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 15"
    body = '{"prompt": "h"}'
    request = (
        "POST /echo/generate HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Type: application/json\r\n"
        f"x-api-key: first-key\r\n{framing}\r\n\r\n" + (f"f\r\n{body}\r\n0\r\n\r\n" if chunked else body)
    )
    last = "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    whole = (request * 2 + last).encode()
    size = -(-len(whole) // pieces)
    with live.connect() as connection:
        for start in range(0, len(whole), size):
            connection.sendall(whole[start : start + size])
        answer = read_all(connection)
    assert statuses(answer) == [200, 200, 401], answer
    assert b"hhhh" in answer
