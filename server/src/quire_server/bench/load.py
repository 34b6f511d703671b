"""A run: warm up, let requests begin as the schedule says, gather what became of them.

Open loop (`request_rate`): a request is due at a random time, whatever the server does. If the most that may
be in flight already are, it waits, and its latencies count from when it was due all the same: else a slow
server would slow down the load and look better for it. Closed loop: `concurrency` senders, each sending its
next request when its last one has ended.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from quire.errors import ConfigError
from quire_server.bench.address import Address
from quire_server.bench.arrivals import poisson
from quire_server.bench.client import PATHS, Sample, encode, send
from quire_server.bench.connection import Pool
from quire_server.bench.settings import LoadSettings
from quire_server.bench.workload import Request

RECONNECT_SECONDS = 0.25
"""That a sender of a closed loop waits after a server could not be reached."""

SPIN_SECONDS = 0.0015
"""Event loops round timers up to whole milliseconds: the last bit before a due time is yielded away."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        settings: what was asked for, the model filled in.
        url: the server's base URL.
        started: Unix time in seconds.
        seconds: from the first request's due time to the last one's end.
        samples: one per request that was sent, by index.
        server: what `/v1/models` says of the model, or None.
    """

    settings: LoadSettings
    url: str
    started: float
    seconds: float
    samples: list[Sample]
    server: dict[str, Any] | None


async def run_load(
    address: Address,
    settings: LoadSettings,
    *,
    api_key: str | None = None,
    on_done: Callable[[Sample], object] = lambda sample: None,
) -> Run:
    """Run a load against a server.

    Args:
        on_done: called with each request that has ended.

    Raises:
        ConfigError: no server answers, it does not list the model, or the warm-up requests fail.
    """
    with Pool(address, api_key) as pool:
        model, server = await find_model(pool, address, settings.model)
        settings = dataclasses.replace(settings, model=model)
        load = _Load(pool, settings, on_done)
        await load.warm_up()
        started = time.time()
        seconds = await load.run()
    samples = sorted(load.samples, key=lambda one: one.index)
    return Run(settings, address.url, started, seconds, samples, server)


async def find_model(pool: Pool, address: Address, name: str) -> tuple[str, dict[str, Any] | None]:
    """The model's name, the first that is served if none is given, and the server's entry for it.

    Raises:
        ConfigError: see `run_load`.
    """
    try:
        async with asyncio.timeout(30):
            reply = await pool.exchange(pool.encode("GET", "/v1/models"))
    except OSError as error:  # TimeoutError is one
        reason = str(error) or "no answer in 30 s"
        raise ConfigError(f"No server answers at {address.url}: {reason}.") from None
    if reply.status in (401, 403):
        raise ConfigError(f"{address.url} wants an API key: give --api-key or set OPENAI_API_KEY.")
    try:
        entries = msgspec.json.decode(reply.body)["data"] if reply.status == 200 else []
        names = [str(entry["id"]) for entry in entries]
    except (msgspec.DecodeError, KeyError, TypeError):
        entries, names = [], []
    if name:
        return name, next((entry for entry in entries if entry["id"] == name), None)
    if not names:
        raise ConfigError(f"{address.url}/v1/models lists no model (status {reply.status}): give --model.")
    return names[0], entries[0]


class _Load:
    """The state of one run."""

    def __init__(self, pool: Pool, settings: LoadSettings, on_done: Callable[[Sample], object]) -> None:
        self.samples: list[Sample] = []
        self._pool = pool
        self._settings = settings
        self._workload = settings.workload
        self._on_done = on_done
        self._begin = 0.0
        self._next = 0

    async def warm_up(self) -> None:
        """Send the unmeasured requests, one after the other."""
        for number in range(1, self._settings.warmup + 1):
            request = self._workload.request(-number)
            sample = Sample(request.index, request.input_len, request.output_len, due=0.0)
            await self._send(request, self._body(request), sample)
            if sample.failure is not None:
                raise ConfigError(f"A warm-up request failed: {sample.failure}: {sample.detail}.")

    async def run(self) -> float:
        """Send everything; the seconds it took."""
        self._begin = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            if self._settings.request_rate is None:
                for _ in range(min(self._settings.concurrency, self._settings.num_requests or 2**62)):
                    tasks.create_task(self._sender())
            else:
                await self._open_loop(tasks, self._settings.request_rate)
        return time.perf_counter() - self._begin

    async def _sender(self) -> None:
        while (request := self._take(self._now())) is not None:
            body = self._body(request)
            sample = await self._measure(request, body, due=self._now())
            if sample.failure == "connect":
                # A server that is gone refuses a million times a minute; nobody learns from the rest.
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _open_loop(self, tasks: asyncio.TaskGroup, rate: float) -> None:
        room = asyncio.Semaphore(self._settings.concurrency)

        async def one(request: Request, body: bytes, due: float) -> None:
            try:
                await self._measure(request, body, due)
            finally:
                room.release()

        for due in poisson(rate, self._settings.seed):
            request = self._take(due)
            if request is None:
                return
            body = self._body(request)  # made before it is due: sending is all that is left to do then
            await self._until(due)
            await room.acquire()
            tasks.create_task(one(request, body, due))

    def _take(self, due: float) -> Request | None:
        """The next request, None if the run is over by number or at this time."""
        settings = self._settings
        if settings.num_requests is not None and self._next >= settings.num_requests:
            return None
        if settings.duration is not None and due >= settings.duration:
            return None
        self._next += 1
        return self._workload.request(self._next - 1)

    def _body(self, request: Request) -> bytes:
        return encode(self._settings, self._settings.model, request)

    def _now(self) -> float:
        return time.perf_counter() - self._begin

    async def _until(self, due: float) -> None:
        left = due - self._now()
        if left > SPIN_SECONDS:
            await asyncio.sleep(left - SPIN_SECONDS)
        while self._now() < due:
            await asyncio.sleep(0)

    async def _measure(self, request: Request, body: bytes, due: float) -> Sample:
        sample = Sample(request.index, request.input_len, request.output_len, due=due)
        self.samples.append(sample)
        await self._send(request, body, sample)
        self._on_done(sample)
        return sample

    async def _send(self, request: Request, body: bytes, sample: Sample) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout):
                await send(self._pool, PATHS[self._settings.endpoint], body, sample, self._begin)
        except TimeoutError:
            sample.failure = "timeout"
            sample.detail = f"no end within {self._settings.timeout:g} s"
