"""What the HTTP layer costs: Quire's whole app over an engine that answers at once, beside uvicorn alone.

    python bench/http_layer.py [--rounds 5] [--streams 32] [--tokens 128] [--json FILE]

Two servers, each in a process of its own on one core, the client on another: Quire's app with all its
front ends, and a bare ASGI application that sends the very bytes that Quire sent, in as many pieces, and does
nothing else. They take turns. Streams are `/v1/completions` with one token a chunk; requests are completions
of one token, not streamed. Rates are per second of wall time and, as the machine may have other work, per
second of the server's processor time: that is the figure to quote. The engine's own cost, measured without
HTTP, and the client's stand beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import uvicorn
import uvloop

from quire_server.bench import Address
from quire_server.bench.connection import Pool

PATH = "/v1/completions"
SIDES = ("quire", "uvicorn")


class Rate(NamedTuple):
    """Things per second of wall time, of the server's processor time, of the client's."""

    wall: float
    server: float
    client: float


def request_body(tokens: int, stream: bool) -> bytes:
    """A completion of so many tokens, with a prompt of 32."""
    body = {"model": "fake", "prompt": list(range(32, 64)), "max_tokens": tokens, "stream": stream}
    return json.dumps(body | {"ignore_eos": True}).encode()


def quire_app() -> tuple[Any, uvicorn.Config]:
    """Quire's app over the instant engine, and uvicorn's settings as `quire serve` has them."""
    from quire import EngineConfig
    from quire.plugins import discover
    from quire_server.app import build_app
    from quire_server.config import ServeConfig
    from quire_server.http.protocol import uvicorn_config
    from quire_server.metrics import ServerMetrics
    from quire_server.routes import choose_routes
    from quire_server.service import Service
    from quire_server.testing.instant_engine import InstantEngine

    settings = ServeConfig(access_log=False, log_level="error", max_queue=100_000)
    service = Service(InstantEngine(), settings, ServerMetrics())
    routes = choose_routes(discover(), EngineConfig(model="fake"), settings)
    front_ends = [route.load()(service, route.load_options()) for route in routes]
    app = build_app(service, front_ends)
    return app, uvicorn_config(settings, app)


def bare_app(replies: dict[str, list[str]]) -> tuple[Any, uvicorn.Config]:
    """An application that sends what it is given: the pieces of a stream, or one body."""
    stream = [piece.encode() for piece in replies["stream"]]
    whole = replies["whole"][0].encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        streamed = b'"stream": true' in body
        kind = b"text/event-stream; charset=utf-8" if streamed else b"application/json"
        headers = [(b"content-type", kind)]
        if not streamed:
            headers.append((b"content-length", str(len(whole)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not streamed:
            await send({"type": "http.response.body", "body": whole})
            return
        for piece in stream:
            await asyncio.sleep(0)  # the turn that the engine's stream takes
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="off", log_level="error", access_log=False, ws="none"
    )
    return app, config


def serve(side: str, core: int) -> None:
    """The loop inside a server's process; what the bare one is to send comes on standard input."""
    os.sched_setaffinity(0, {core})
    _, config = quire_app() if side == "quire" else bare_app(json.load(sys.stdin))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


class Server:
    """A server in a process of its own."""

    def __init__(self, side: str, core: int, replies: dict[str, list[str]] | None = None) -> None:
        command = [sys.executable, __file__, "--serve", side, "--core", str(core)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        json.dump(replies, self._process.stdin)
        self._process.stdin.close()
        port = self._process.stdout.readline()
        if not port:
            raise SystemExit(f"The server {side!r} did not start.")
        self.address = Address("http", "127.0.0.1", int(port))
        self._times = psutil.Process(self._process.pid)

    @property
    def cpu(self) -> float:
        """Processor seconds so far."""
        times = self._times.cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


async def record(address: Address, tokens: int) -> dict[str, list[str]]:
    """What Quire answers: the events of a stream, and a whole answer."""
    with Pool(address) as pool:
        stream = await pool.exchange(pool.encode("POST", PATH, request_body(tokens, stream=True)))
        whole = await pool.exchange(pool.encode("POST", PATH, request_body(1, stream=False)))
    if (stream.status, whole.status) != (200, 200):
        raise SystemExit(f"Quire answers {stream.status} and {whole.status}: {stream.body!r} {whole.body!r}")
    events = [f"data: {data.decode()}\n\n" for _, data in stream.events]
    return {"stream": events, "whole": [whole.body.decode()]}


async def load(address: Address, body: bytes, senders: int, requests: int) -> int:
    """Send requests, so many at a time; the number of pieces that came."""
    pieces = 0

    async def sender(count: int) -> None:
        nonlocal pieces
        for _ in range(count):
            reply = await pool.exchange(pool.encode("POST", PATH, body))
            if reply.status != 200 or reply.broken:
                raise SystemExit(f"status {reply.status}: {reply.broken or reply.body!r}")
            pieces += len(reply.events) - 1 if reply.streamed else 1  # [DONE] is no token

    with Pool(address) as pool:
        await asyncio.gather(*(sender(requests // senders) for _ in range(senders)))
    return pieces


def measure(server: Server, body: bytes, senders: int, requests: int) -> Rate:
    """One round on one server."""
    cpu, own, begin = server.cpu, time.process_time(), time.perf_counter()
    pieces = uvloop.run(load(server.address, body, senders, requests))
    wall, own, cpu = time.perf_counter() - begin, time.process_time() - own, server.cpu - cpu
    return Rate(pieces / wall, pieces / cpu, pieces / own)


def engine_alone(streams: int, tokens: int) -> float:
    """Tokens per processor second of the instant engine, nothing above it."""
    from quire import SamplingParams
    from quire_server.testing.instant_engine import InstantEngine

    async def read(engine: InstantEngine) -> None:
        params = SamplingParams(max_tokens=tokens)
        async for _ in await engine.submit([32] * 32, params, deltas=True):
            pass

    async def run() -> None:
        engine = InstantEngine()
        await asyncio.gather(*(read(engine) for _ in range(streams)))

    begin = time.process_time()
    for _ in range(10):
        uvloop.run(run())
    return 10 * streams * tokens / (time.process_time() - begin)


def rounds(args: argparse.Namespace, servers: dict[str, Server]) -> dict[str, dict[str, list[Rate]]]:
    """All rounds, the servers in turn."""
    runs: dict[str, Callable[[Server], Rate]] = {
        "tokens": lambda server: measure(
            server, request_body(args.tokens, stream=True), args.streams, args.streams * 10
        ),
        "requests": lambda server: measure(
            server, request_body(1, stream=False), args.streams, args.requests
        ),
    }
    rates: dict[str, dict[str, list[Rate]]] = {what: {side: [] for side in SIDES} for what in runs}
    for round_ in range(args.rounds + 1):
        for what, run in runs.items():
            for side in SIDES:
                rate = run(servers[side])
                if round_:  # the first warms up
                    rates[what][side].append(rate)
    return rates


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=32, help="requests at a time")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of a stream")
    parser.add_argument("--requests", type=int, default=3200, help="requests of a round that are not streams")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.core)
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("This needs two cores: one for the server, one for the client.")
    os.sched_setaffinity(0, set(cores[1:]))
    alone = engine_alone(args.streams, args.tokens)
    servers = {"quire": Server("quire", cores[0])}
    try:
        replies = uvloop.run(record(servers["quire"].address, args.tokens))
        servers["uvicorn"] = Server("uvicorn", cores[0], replies)
        rates = rounds(args, servers)
    finally:
        for server in servers.values():
            server.close()
    print(f"{'median of ' + str(args.rounds):<24}{'Quire':>12}{'uvicorn':>12}{'Quire / uvicorn':>17}")
    result: dict[str, Any] = {"python": platform.python_version(), "uvicorn": uvicorn.__version__}
    for what, by_side in rates.items():
        for name in Rate._fields:
            medians = {side: statistics.median(getattr(one, name) for one in by_side[side]) for side in SIDES}
            result[f"{what} per {name} second"] = medians
            ratio = medians["quire"] / medians["uvicorn"]
            label = f"{what} / {name} s"
            print(f"{label:<24}{medians['quire']:>12.0f}{medians['uvicorn']:>12.0f}{ratio:>17.2f}")
    print(f"the engine alone: {alone:.0f} tokens per processor second")
    if args.json:
        result["engine alone"] = alone
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
