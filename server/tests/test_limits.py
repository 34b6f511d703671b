"""What a client may send, how much, and how slowly: raw sockets against a real uvicorn."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer, echo, read_all

LIMIT = 20_000
HEADERS = 8_192
TIMEOUT = 0.4
STREAM = b'{"prompt": "abcdef", "max_tokens": 6, "stream": true}'


def make_server(engine: FakeEngine, **settings: Any) -> LiveServer:
    service = Service(engine, ServeConfig(**settings), ServerMetrics())
    return LiveServer(build_app(service, [ops(service), echo.front_end(service)]))


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    settings = {"max_body_bytes": LIMIT, "max_header_bytes": HEADERS, "read_timeout": TIMEOUT}
    with make_server(FakeEngine(), **settings) as server:
        yield server


def post(body: bytes, *headers: str, path: str = "/echo/generate") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def chunked(body: bytes, size: int = 1000) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def payload(size: int) -> bytes:
    """A body of exactly so many bytes."""
    start, end = b'{"prompt": "hi", "metadata": {"pad": "', b'"}}'
    return start + b"x" * (size - len(start) - len(end)) + end


@pytest.mark.parametrize("path", ["/echo/generate", "/nothing", "/health"])
def test_a_body_over_the_limit_is_413(live: LiveServer, path: str) -> None:
    """For every route, and before one byte of it was read."""
    answer = live.exchange(post(b"", "Content-Length: 1000000000000", path=path))
    assert status(answer) == 413
    assert str(LIMIT) in answer.decode()


@pytest.mark.parametrize("length", ["99999999999999999999999999", "18446744073709551616"])
def test_absurd_lengths_are_refused(live: LiveServer, length: str) -> None:
    assert status(live.exchange(post(b"", f"Content-Length: {length}"))) in (400, 413)


@pytest.mark.parametrize(("size", "expected"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_the_limit_is_exact(live: LiveServer, size: int, expected: int) -> None:
    body = payload(size)
    whole = post(body, f"Content-Length: {size}", "Connection: close")
    assert status(live.exchange(whole)) == expected
    pieces = post(chunked(body), "Transfer-Encoding: chunked", "Connection: close")
    assert status(live.exchange(pieces)) == expected


def test_an_endless_chunked_body_is_cut_off(live: LiveServer) -> None:
    with live.connect() as connection:
        connection.sendall(post(b"", "Transfer-Encoding: chunked"))
        sent = 0
        try:
            while sent < 2000 * LIMIT:
                connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
                sent += 1024
        except OSError:
            pass
    assert sent < 2000 * LIMIT


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "gzip, identity"])
def test_compressed_bodies_are_415_unread(live: LiveServer, encoding: str) -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    request = post(bomb, f"Content-Encoding: {encoding}", f"Content-Length: {len(bomb)}")
    assert status(live.exchange(request)) == 415


def test_identity_is_no_compression(live: LiveServer) -> None:
    request = post(
        b'{"prompt": "a"}', "Content-Encoding: identity", "Content-Length: 15", "Connection: close"
    )
    assert status(live.exchange(request)) == 200


def test_a_refused_body_takes_no_memory() -> None:
    """A request over a limit is refused before anything is allocated for it."""
    service = Service(FakeEngine(), ServeConfig(max_body_bytes=LIMIT), ServerMetrics())
    with LiveServer(build_app(service, [echo.front_end(service)])) as server:
        big = post(b"x" * 20_000_000, "Content-Length: 20000000")
        small = post(b"", "Content-Length: 20000000")
        server.exchange(small)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        with server.connect() as connection, contextlib.suppress(OSError):
            connection.sendall(big)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak - before < 5_000_000


@pytest.mark.parametrize(
    "head",
    [
        "GET /health HTTP/1.1\r\nHost: x\r\nBig: " + "x" * HEADERS + "\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * HEADERS + "\r\n",
        "GET /health?" + "x" * HEADERS + " HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nBig: " + "x" * 50 * HEADERS,
        "GET /" + "x" * 50 * HEADERS,
        "GET /health HTTP/1.1\r\n" + "x" * 50 * HEADERS,
    ],
    ids=["one header", "many headers", "target", "no end of value", "no end of target", "no end of name"],
)
def test_headers_over_the_limit_are_431(live: LiveServer, head: str) -> None:
    answer = b""
    with live.connect() as connection:
        try:
            connection.sendall(head.encode())
        except OSError:
            pass
        else:
            answer = read_all(connection)
    if answer:  # a reset may overtake the answer when bytes of ours were still on their way
        assert status(answer) == 431
        assert body_of(answer)["error"]["code"] == "headers_too_large"


def test_headers_under_the_limit_pass(live: LiveServer) -> None:
    head = (
        "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nBig: " + "x" * (HEADERS - 100) + "\r\n\r\n"
    )
    assert status(live.exchange(head.encode())) == 200


def test_large_bodies_do_not_count_as_headers(live: LiveServer) -> None:
    """Of requests that follow each other on one connection each has its own bound."""
    body = payload(LIMIT)
    request = post(body, f"Content-Length: {LIMIT}")
    closing = post(body, f"Content-Length: {LIMIT}", "Connection: close")
    answer = live.exchange(request * 5 + closing)
    assert answer.count(b"HTTP/1.1 200") == 6


def dribble(connection: socket.socket, data: bytes, pause: float) -> None:
    for start in range(len(data)):
        connection.sendall(data[start : start + 1])
        time.sleep(pause)


def slow_headers(connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\n")
    dribble(connection, b"X-Slow: " + b"x" * 100, TIMEOUT / 10)


def slow_second_headers(connection: socket.socket) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    connection.recv(65536)
    slow_headers(connection)


def slow_body(connection: socket.socket) -> None:
    connection.sendall(post(b"", "Content-Length: 1000"))
    dribble(connection, b"{" + b" " * 100, TIMEOUT / 10)


def slow_chunks(connection: socket.socket) -> None:
    connection.sendall(post(b"", "Transfer-Encoding: chunked"))
    dribble(connection, b"1\r\n \r\n" * 20, TIMEOUT / 10)


def no_body(connection: socket.socket) -> None:
    connection.sendall(post(b"", "Content-Length: 1000"))


@pytest.mark.parametrize("attack", [slow_headers, slow_second_headers, slow_body, slow_chunks, no_body])
def test_slow_clients_get_408(live: LiveServer, attack: Callable[[socket.socket], None]) -> None:
    started = time.monotonic()
    with live.connect() as connection:
        try:
            attack(connection)
        except OSError:
            assert attack is not no_body  # the server has closed while we were still sending
        else:
            answer = read_all(connection)
            assert status(answer) == 408
            assert body_of(answer).get("error", body_of(answer))
    assert TIMEOUT <= time.monotonic() - started < 5


@pytest.mark.parametrize("blank", [b"", b"\r\n", b"\r\n\r\n"])
def test_a_silent_connection_is_closed(live: LiveServer, blank: bytes) -> None:
    started = time.monotonic()
    with live.connect() as connection:
        connection.sendall(blank)
        assert read_all(connection) == b""
    assert TIMEOUT * 0.9 <= time.monotonic() - started < 5


def test_blank_lines_do_not_keep_an_idle_connection(live: LiveServer) -> None:
    started = time.monotonic()
    with live.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536)
        connection.sendall(b"\r\n")
        assert read_all(connection) == b""
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"HELO x\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100]
)
def test_what_is_not_http_gets_400_in_json(live: LiveServer, garbage: bytes) -> None:
    answer = live.exchange(garbage)
    assert status(answer) == 400
    assert body_of(answer)["error"]["code"] == "invalid_http"


def test_a_long_answer_is_not_cut_by_the_read_timeout() -> None:
    with make_server(FakeEngine(delay=0.1), read_timeout=0.2) as server:
        answer = server.exchange(
            post(
                b'{"prompt": "abcdef", "max_tokens": 6, "stream": true}',
                "Content-Length: 53",
                "Connection: close",
            )
        )
    assert status(answer) == 200
    assert answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_aborts_its_request(stream: bool) -> None:
    engine = FakeEngine(delay=0.01)
    body = json.dumps({"prompt": "abc", "max_tokens": 400, "stream": stream}).encode()
    with make_server(engine) as server:
        with server.connect() as connection:
            connection.sendall(post(body, f"Content-Length: {len(body)}"))
            if stream:
                connection.recv(1024)
            deadline = time.monotonic() + 5
            while not engine.running and time.monotonic() < deadline:
                time.sleep(0.005)
        while not engine.aborted and time.monotonic() < deadline:
            time.sleep(0.005)
        assert (engine.aborted, engine.running) == (1, 0)
        assert 'finished_total{reason="abort"} 1.0' in httpx.get(f"{server.url}/metrics").text


def test_a_stream_that_breaks_is_cut_not_ended() -> None:
    """A client must be able to tell an answer that is whole from one that is not."""
    engine = FakeEngine()
    engine.fail_after = 2
    with make_server(engine) as server:
        answer = server.exchange(
            post(
                b'{"prompt": "abcdef", "max_tokens": 6, "stream": true}',
                "Content-Length: 53",
                "Connection: close",
            )
        )
    assert status(answer) == 200
    assert b'{"text": "b"}' in answer
    assert not answer.endswith(b"0\r\n\r\n")
