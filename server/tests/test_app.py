"""The app as a whole: errors in each dialect's form, ids, ignored fields, CORS, root_path."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from quire.errors import ConfigError, OverloadedError, PluginError
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.front_end import FrontEnd
from quire_server.metrics import ServerMetrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine, echo

LEAKS = re.compile(r"0x[0-9a-f]{6,}|/usr/|/home/|\.py\b|sk-|Traceback|127\.0\.0\.1:\d+")


def make_client(engine: FakeEngine | None = None, **settings: Any) -> TestClient:
    service = Service(engine or FakeEngine(), ServeConfig(**settings), ServerMetrics())
    return TestClient(build_app(service, [ops(service), echo.front_end(service)]))


@pytest.fixture
def client() -> Iterator[TestClient]:
    with make_client() as client:
        yield client


BAD_BODIES: list[tuple[bytes, str | None, str]] = [
    (b"{", None, "not valid JSON"),
    (b"", None, "Content-Type"),
    (b"[]", None, "JSON object"),
    (b"\xff\xfe{", None, "UTF-8"),
    (b'{"prompt": "\xff"}', None, "UTF-8"),
    (b'{"prompt": "x", "temperature": NaN}', None, "NaN"),
    (b'{"prompt": "x", "metadata": {"a": [-Infinity]}}', None, "Infinity"),
    (b'{"prompt": "x", "temperature": 1e999}', "temperature", "finite"),
    (b'{"prompt": "\\ud800"}', None, "surrogate"),
    (b"[" * 100_000, None, "nested"),
    (b'{"prompt": ' + b"[" * 100_000, None, "nested"),
    (b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}", None, "JSON"),
    (b'{"max_tokens": 1}', "prompt", "required"),
    (b'{"prompt": {"a": 1}}', "prompt", "string"),
    (b'{"prompt": [1, null, "x"]}', "prompt[1]", "valid integer"),
    (b'{"prompt": "x", "max_tokens": "many"}', "max_tokens", 'integer, got "many".'),
    (b'{"prompt": "x", "max_tokens": "' + b"n" * 99 + b'"}', "max_tokens", 'got "' + "n" * 59 + "...."),
    (b'{"prompt": "x", "max_tokens": 0}', "max_tokens", "greater"),
    (b'{"prompt": "x", "max_tokens": -1}', "max_tokens", "greater"),
    (b'{"prompt": "x", "messages": [{"role": "user"}, {}]}', "messages[1].role", "required"),
    (b'{"prompt": "x", "messages": [{"role": "user", "content": 1}]}', "messages[0].content", "string"),
    (
        b'{"prompt": "x", "messages": [{"role": "u", "content": ["a", 1]}]}',
        "messages[0].content[1]",
        "string",
    ),
]


@pytest.mark.parametrize(("body", "param", "says"), BAD_BODIES)
def test_bad_bodies_are_400_in_the_dialects_form(
    client: TestClient, body: bytes, param: str | None, says: str
) -> None:
    answer = client.post("/echo/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()) == {"echo_error", "param"}
    assert says in answer.json()["echo_error"]
    if param is not None:
        assert answer.json()["param"] == param
        assert answer.json()["echo_error"].startswith(f"{param}: ")


@pytest.mark.parametrize("item", ['"a"', "[]", "{}", "null"])
@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_many_wrong_items_are_one_error(client: TestClient, field: str, item: str) -> None:
    """An error for each would take minutes and gigabytes for a body of some megabytes."""
    items = ",".join([item] * 200_000)
    body = f'{{"prompt": "x", "{field}": [{items}]}}'
    started = time.monotonic()
    answer = client.post("/echo/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["param"].startswith(field)
    assert len(answer.content) < 1000
    assert time.monotonic() - started < 5


def test_pairs_of_surrogates_and_the_word_nan_are_fine(client: TestClient) -> None:
    body = b'{"prompt": "NaN \\ud83d\\ude00", "max_tokens": 3}'
    answer = client.post("/echo/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert answer.json() == {"text": "NaN"}


@pytest.mark.parametrize(
    ("path", "param"), [("/echo/closed/x", "number"), ("/echo/closed/1?limit=x", "limit")]
)
def test_parameters_of_path_and_query_are_named(client: TestClient, path: str, param: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 400
    assert answer.json()["param"] == param


@pytest.mark.parametrize(
    ("method", "path", "status", "form"),
    [
        ("GET", "/nothing", 404, "error"),
        ("GET", "/echo/nothing", 404, "echo_error"),
        ("GET", "/echo", 404, "echo_error"),
        ("GET", "/echoes", 404, "error"),
        ("GET", "/health/", 404, "error"),
        ("DELETE", "/health", 405, "error"),
        ("GET", "/echo/generate", 405, "echo_error"),
    ],
)
def test_the_routers_refusals_take_the_dialects_form(
    client: TestClient, method: str, path: str, status: int, form: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert form in answer.json()
    if status == 405:
        assert answer.headers["Allow"]
    if form == "error":
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_an_unexpected_exception_says_nothing_but_where_to_look(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/echo/broken", headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == 500
    assert "abc-1" in answer.json()["echo_error"]
    assert not LEAKS.search(answer.text)
    assert answer.headers["X-Request-Id"] == "abc-1"
    assert any(one.exc_info for one in caplog.records)  # the log has the reason


def test_no_error_of_any_route_leaks() -> None:
    key = "sk-0123456789abcdef"
    with make_client(api_keys=[key]) as client:
        texts = []
        for headers in ({}, {"Authorization": f"Bearer {key}"}, {"Authorization": "Bearer sk-wrong"}):
            for path in (
                "/echo/broken",
                "/echo/closed/0x7f0000000000",
                "/nope",
                "/echo/generate",
                "/metrics",
            ):
                for method in ("GET", "POST", "PUT"):
                    answer = client.request(method, path, content=b'{"prompt": 1}', headers=headers)
                    if answer.status_code >= 400:
                        texts.append(answer.text.replace("0x7f0000000000", ""))
    assert len(texts) > 30
    assert [text for text in texts if LEAKS.search(text)] == []


def test_queue_full_is_429_with_retry_after() -> None:
    engine = FakeEngine()
    engine.refuse = OverloadedError("512 requests wait already.")
    with make_client(engine) as client:
        answer = client.post("/echo/generate", json={"prompt": "x"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("shown", ["abc", "a-b_c.d:1", "x" * 128])
def test_a_sane_request_id_is_echoed(client: TestClient, shown: str) -> None:
    assert client.get("/health", headers={"X-Request-Id": shown}).headers["X-Request-Id"] == shown


@pytest.mark.parametrize("shown", ["", "a b", "x" * 129, "<script>", 'a"b', "a\tb"])
def test_another_request_id_is_drawn(client: TestClient, shown: str) -> None:
    ids = {client.get("/health", headers={"X-Request-Id": shown}).headers["X-Request-Id"] for _ in range(2)}
    assert len(ids) == 2
    assert shown not in ids


def test_requests_with_the_same_id_do_not_meet() -> None:
    asyncio.run(check_same_ids())


async def check_same_ids() -> None:
    engine = FakeEngine(delay=0.001)
    service = Service(engine, ServeConfig(), ServerMetrics())
    app = build_app(service, [echo.front_end(service)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:

        async def ask(text: str) -> httpx.Response:
            return await client.post(
                "/echo/generate",
                json={"prompt": text, "max_tokens": 6},
                headers={"X-Request-Id": "same"},
            )

        aborted = asyncio.ensure_future(ask("gone"))
        others = [asyncio.ensure_future(ask(f"{number:02d}")) for number in range(20)]
        await asyncio.sleep(0.003)
        aborted.cancel()
        answers = await asyncio.gather(*others)
    assert [one.json()["text"] for one in answers] == [f"{number:02d}" * 3 for number in range(20)]
    assert {one.headers["X-Request-Id"] for one in answers} == {"same"}
    assert engine.aborted == 1


@pytest.mark.parametrize("stream", [False, True])
def test_ignored_fields_are_named_in_a_header(client: TestClient, stream: bool) -> None:
    body = {"prompt": "x", "made_up": 1, "näme,2\n": 1, "stream": stream}
    answer = client.post("/echo/generate", json=body)
    assert answer.status_code == 200
    assert answer.headers["X-Quire-Ignored-Fields"] == "made_up, n?me?2?"


def test_strict_mode_refuses_unknown_fields() -> None:
    with make_client(strict=True) as client:
        answer = client.post("/echo/generate", json={"prompt": "x", "made_up": 1})
    assert answer.status_code == 400
    assert answer.json()["param"] == "made_up"


def test_cors_is_off_by_default(client: TestClient) -> None:
    answer = client.get("/health", headers={"Origin": "https://a.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_cors_lets_configured_origins_in_without_a_key_for_the_preflight() -> None:
    with make_client(cors_origins=["https://a.example"], api_keys=["k"]) as client:
        ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        preflight = client.options("/echo/generate", headers=ask)
        refused = client.post("/echo/generate", json={}, headers={"Origin": "https://a.example"})
        other = client.get("/health", headers={"Origin": "https://b.example"})
    assert preflight.status_code == 200
    assert refused.status_code == 401
    for answer in (preflight, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize("path", ["/quire/v1/echo/closed/1", "/echo/closed/1"])
def test_root_path_is_known_whether_the_proxy_strips_it_or_not(path: str) -> None:
    with make_client(root_path="/quire/v1/") as client:
        assert client.get(path).status_code == 200
        assert "echo_error" in client.get(path + "/x").json()


def test_a_root_path_without_slash_is_refused() -> None:
    with pytest.raises(ConfigError, match="root_path"):
        make_client(root_path="quire")


def test_public_must_name_a_route_of_its_own() -> None:
    service = Service(FakeEngine(), ServeConfig(), ServerMetrics())
    one = ops(service)
    stray = FrontEnd(one.router, public=frozenset({"/helth"}))
    with pytest.raises(PluginError, match="/helth"):
        build_app(service, [stray])
    with pytest.raises(PluginError, match="only one"):
        build_app(service, [one, FrontEnd(one.router)])


def test_the_schema_never_speaks_of_422(client: TestClient) -> None:
    schema = client.get("/openapi.json")
    assert schema.status_code == 200
    assert "/echo/generate" in schema.json()["paths"]
    assert '"422"' not in schema.text
    assert client.get("/docs").status_code == 404


def test_the_service_is_in_the_apps_state() -> None:
    service = Service(FakeEngine(), ServeConfig(), ServerMetrics())
    assert build_app(service, []).state.service is service
