"""The server's processes: what happens when one is killed, hangs, is told to stop, or loses its client.

Every test runs the real `quire serve` on the bundled model.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from .live import LiveServer

pytestmark = pytest.mark.slow

HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
LONG = {"max_tokens": 1500, "ignore_eos": True, "temperature": 0.8, "seed": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("--stall-timeout", "2", "--max-num-seqs", "4") as live:
        yield live


def metric(server: LiveServer, name: str) -> float:
    """Sum of a metric's samples."""
    lines = server.client.get("/metrics").text.splitlines()
    found = [float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name]
    assert found, f"no metric {name}"
    return sum(found)


def eventually(server: LiveServer, name: str, value: float, seconds: float = 5.0) -> None:
    """Wait until a metric has a value."""
    deadline = time.monotonic() + seconds
    while (found := metric(server, name)) != value:
        assert time.monotonic() < deadline, f"{name} is {found}, not {value}"
        time.sleep(0.05)


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of a stream's data lines, up to its end."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


@contextlib.contextmanager
def streaming(server: LiveServer, **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """A stream of completions that has begun."""
    ask = {"model": "tiny", "prompt": "def f(", "stream": True} | LONG | body
    with server.client.stream("POST", "/v1/completions", json=ask) as response:
        assert response.status_code == 200
        yield events(response.iter_lines())


def listeners(server: LiveServer) -> set[tuple[str, int]]:
    """Network addresses that the server's processes listen on."""
    processes = [psutil.Process(server.process.pid), *server.children("")]
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_only_the_http_port_listens_and_only_on_the_loopback(server: LiveServer) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    assert listeners(server) == {("127.0.0.1", port)}


def test_a_client_that_goes_away_is_aborted_within_a_step(server: LiveServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for body in (
        LONG | {"stream": True},  # decoding, streamed
        LONG,  # decoding, answered whole
        LONG | {"n": 4},  # several completions
    ):
        data = json.dumps({"model": "tiny", "prompt": "def f("} | body).encode()
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(HEAD % len(data) + data)
            eventually(server, "quire_num_requests_running", body.get("n", 1))
        eventually(server, "quire_num_requests_running", 0)
    assert server.complete().status_code == 200


def test_waiting_requests_of_a_client_that_goes_away_are_aborted(server: LiveServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps({"model": "tiny", "prompt": "x"} | LONG).encode()
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(streaming(server)) for _ in range(4)]
        for stream in streams:
            next(stream)
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(HEAD % len(data) + data)
            eventually(server, "quire_num_requests_waiting", 1)
        eventually(server, "quire_num_requests_waiting", 0)
        assert metric(server, "quire_num_requests_running") == 4
    eventually(server, "quire_num_requests_running", 0)


def test_a_client_that_goes_away_during_its_prompt_is_aborted() -> None:
    # In small steps of plain operations, lest the prompt be computed before anybody has looked.
    slow = ("--kernels", "reference", "--attention-backend", "torch")
    with LiveServer("--max-num-batched-tokens", "4", "--max-num-seqs", "4", *slow) as server:
        host, port = server.url.removeprefix("http://").split(":")
        data = json.dumps({"model": "tiny", "prompt": [7, 8, 9, 10] * 500, "max_tokens": 5}).encode()
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(HEAD % len(data) + data)
            eventually(server, "quire_num_requests_running", 1)
        eventually(server, "quire_num_requests_running", 0)
        assert metric(server, "quire_prompt_tokens_total") < 2000
        assert metric(server, "quire_generation_tokens_total") == 0


def test_a_hung_engine_is_unready_and_comes_back(server: LiveServer) -> None:
    server.engine.suspend()
    try:
        assert server.wait_until("/ready", 503) < 5
        assert server.status("/health") == 503
        refused = server.complete()
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers
    finally:
        server.engine.resume()
    server.wait_until("/ready", 200)
    assert server.complete().status_code == 200


def test_an_idle_server_uses_no_processor() -> None:
    # A large cache would still be filled in while the engine rests for the first time.
    with LiveServer("--kv-cache-memory-bytes", "16MiB") as server:
        assert server.complete().status_code == 200
        processes = [psutil.Process(server.process.pid), *server.children("quire")]
        before, start = [sum(process.cpu_times()[:2]) for process in processes], time.monotonic()
        time.sleep(5)
        used = sum(sum(process.cpu_times()[:2]) for process in processes) - sum(before)
        assert used < 0.01 * (time.monotonic() - start) + 0.03, f"{used:.3f} s of processor time"


def test_a_flood_is_refused_with_429_and_the_rest_is_served() -> None:
    with LiveServer("--max-queue", "4", "--max-num-seqs", "2") as server, ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: server.complete(max_tokens=40, ignore_eos=True), range(40)))
        refused = [answer for answer in found if answer.status_code == 429]
        assert refused
        assert {answer.status_code for answer in found} == {200, 429}
        for answer in refused:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["error"]["code"] == "queue_full"
        for answer in found:
            if answer.status_code == 200:
                assert answer.json()["usage"]["completion_tokens"] == 40
        assert server.complete().status_code == 200


def test_sigterm_drains() -> None:
    with LiveServer("--drain-timeout", "30") as server:
        expected = server.complete(max_tokens=300, ignore_eos=True).json()["choices"][0]["text"]
        with streaming(server, max_tokens=300, temperature=0) as stream:
            text = next(stream)["choices"][0]["text"]
            server.process.send_signal(signal.SIGTERM)
            server.wait_until("/ready", 503)
            refused = server.complete()
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "draining"
            text += "".join(chunk["choices"][0]["text"] for chunk in stream if chunk["choices"])
        assert text == expected
        assert server.process.wait(20) == 0
        assert not any("Fatal" in line or "Traceback" in line for line in server.log), server.log


def test_a_second_sigterm_does_not_wait() -> None:
    with LiveServer("--drain-timeout", "60") as server, streaming(server) as stream:
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until("/ready", 503)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        assert time.monotonic() - start < 5


def test_the_drain_has_an_end() -> None:
    with LiveServer("--drain-timeout", "1") as server, streaming(server) as stream:
        next(stream)
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 12


def test_a_killed_engine_fails_streams_and_the_server_exits() -> None:
    with LiveServer() as server, streaming(server) as stream:
        next(stream)
        killed = time.monotonic()
        server.engine.kill()
        assert "error" in list(stream)[-1]
        assert server.wait_until("/ready", 503) < 1
        assert server.status("/health") == 503
        assert time.monotonic() - killed < 2
        assert server.process.wait(15) != 0
        assert any("ended unexpectedly (signal 9)" in line for line in server.log)


def test_a_killed_engine_is_started_anew_where_that_is_wanted() -> None:
    with LiveServer("--on-engine-death", "restart") as server:
        before = server.complete().json()["choices"][0]["text"]
        server.engine.kill()
        assert server.wait_until("/ready", 503) < 1
        assert server.status("/health") == 200  # it is being seen to
        server.wait_until("/ready", 200, seconds=60)
        assert server.complete().json()["choices"][0]["text"] == before
        server.children("quire_server.api_process")[0].kill()
        server.wait_until("/ready", 200, seconds=60)
        assert server.complete().json()["choices"][0]["text"] == before


def test_nothing_outlives_a_killed_server() -> None:
    with LiveServer("--api-workers", "2") as server:
        children = server.children("quire")
        assert len(children) >= 3
        server.process.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive


def test_api_processes_share_the_port_and_the_books() -> None:
    with LiveServer("--api-workers", "2") as server:
        workers = server.children("quire_server.api_process")
        assert len(workers) == 2
        with ThreadPoolExecutor(8) as pool:
            # A connection each, so that both processes get some.
            answers = list(
                pool.map(
                    lambda _: httpx.post(
                        f"{server.url}/v1/completions",
                        headers={"Authorization": "Bearer test-key"},
                        json={"model": "tiny", "prompt": "def f(", "max_tokens": 5, "ignore_eos": True},
                        timeout=60,
                    ),
                    range(24),
                )
            )
        assert all(answer.status_code == 200 for answer in answers)
        eventually(server, "quire_generation_tokens_total", 24 * 5)  # the engine's, at most a second old
        for _ in range(6):  # whichever process answers
            with httpx.Client(base_url=server.url, headers=dict(server.client.headers)) as fresh:
                text = fresh.get("/metrics").text
            lines = [line for line in text.splitlines() if line.startswith("quire_requests_finished_total")]
            assert sum(float(line.rsplit(" ", 1)[1]) for line in lines) == 24


def test_a_taken_port_and_a_missing_model_are_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (["tiny", "--port", port], f"Cannot listen on 127.0.0.1:{port}"),
            (["/no/such/model"], "/no/such/model"),
        ):
            found = subprocess.run(
                [sys.executable, "-m", "quire.cli", "serve", *arguments],
                capture_output=True,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                timeout=60,
            )
            assert found.returncode == 1
            assert words in found.stderr
            assert "Traceback" not in found.stderr


def test_memory_and_descriptors_stay_flat_under_load() -> None:
    with LiveServer() as server:
        processes = [*server.children("quire_server.api_process"), server.engine]

        def load() -> None:
            with ThreadPoolExecutor(8) as pool:
                for answer in pool.map(
                    lambda i: server.complete(f"def f{i}(", max_tokens=4 + i % 5, seed=i), range(150)
                ):
                    assert answer.status_code == 200
            with contextlib.suppress(StopIteration), streaming(server) as stream:
                next(stream)

        def levels() -> list[tuple[int, int]]:
            return [(process.memory_info().rss, process.num_fds()) for process in processes]

        load()
        load()
        before = levels()
        for _ in range(3):
            load()
        for (memory, descriptors), (memory_then, descriptors_then) in zip(levels(), before, strict=True):
            assert memory < memory_then * 1.05 + 4 * 2**20
            assert descriptors <= descriptors_then + 4
        assert threading.active_count() < 50
