"""One request fails, or its client leaves: on every route that alone is lost, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from quire import SamplingParams
from quire_server.metrics import ServerMetrics
from quire_server.metrics.observed import ObservedStream
from quire_server.testing import Example, FakeEngine, LiveServer, hang_up, wait_for
from quire_server.testing.route_rig import SECRETS, check_quiet

from .route_examples import EVERY
from .whole_app import WholeApp

READING = [one for one in EVERY if one.body is not None]
GENERATING = [one for one in EVERY if one.generates]


def named(examples: Sequence[Example]) -> list[str]:
    return [one.path for one in examples]


BAD = "BAD"


class Faulty(FakeEngine):
    """Fails at one place for requests that say so."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.failed = False
        self.delay = 0.001

    def _meet(self, place: str, what: Any) -> None:
        if place == self.place and BAD in str(what):
            self.failed = True
            raise RuntimeError(SECRETS)

    async def submit(self, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        self._meet("submit", prompt)
        stream = await super().submit(prompt, *args, **kwargs)
        return self._watch(prompt, stream)

    async def _watch(self, prompt: Any, stream: Any) -> Any:
        try:
            async for output in stream:
                self._meet("stream", prompt)
                yield output
        finally:
            await stream.aclose()

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        self._meet("tokenize", text)
        return await super().tokenize(text, add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        self._meet("detokenize", bytes(one for one in token_ids if one < 256))
        return await super().detokenize(token_ids, skip_special_tokens)

    async def render_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        self._meet("render", messages)
        return await super().render_chat(messages, **options)


class FaultyMetrics(ServerMetrics):
    """Fails at one place, once, as soon as it is armed."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.armed = False

    def _meet(self, place: str) -> None:
        if self.armed and place == self.place:
            self.armed = False
            raise RuntimeError(SECRETS)

    def observe(self, stream: Any, params: SamplingParams, *, deltas: bool = False) -> ObservedStream:
        self._meet("observe")
        return super().observe(stream, params, deltas=deltas)

    def first_token(self, seconds: float) -> None:
        self._meet("first_token")
        super().first_token(seconds)

    def finished(self, reason: Any, **figures: Any) -> None:
        self._meet("finished")
        super().finished(reason, **figures)


def saying(body: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A body with other texts and tokens in it."""
    said = json.dumps(body).replace('"abc"', f'"{text}"').replace('"say it"', f'"{text}"')
    changed: dict[str, Any] = json.loads(said.replace("[97, 98]", json.dumps(list(text.encode()))))
    return changed


async def together(whole: WholeApp, example: Example, bodies: Sequence[Any]) -> list[str]:
    """Answers to requests that run at once: their text, "" for those that failed."""
    transport = httpx.ASGITransport(whole.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def ask(body: Any) -> str:
            answer = await client.post(example.url, json=body)
            check_quiet(answer)
            return answer.text if answer.status_code == example.status else ""

        return await asyncio.gather(*(ask(body) for body in bodies))


@pytest.mark.parametrize("place", ["submit", "stream", "tokenize", "detokenize", "render"])
@pytest.mark.parametrize("example", READING, ids=named(READING))
def test_a_request_that_fails_inside_fails_alone(example: Example, place: str) -> None:
    for way in example.ways:
        good = {**saying(example.body or {}, "good"), **way}
        bad = {**saying(example.body or {}, BAD), **way}
        engine = Faulty(place)
        whole = WholeApp(engine)
        answers = asyncio.run(together(whole, example, [good, good, bad, good, good]))
        assert all(answers[index] for index in (0, 1, 3, 4))
        assert not engine.failed or not answers[2] or "error" in answers[2]
        if place in ("submit", "stream"):
            assert engine.failed == example.generates
        assert whole.idle


@pytest.mark.parametrize("place", ["observe", "first_token", "finished"])
@pytest.mark.parametrize("example", GENERATING, ids=named(GENERATING))
def test_books_that_cannot_be_kept_cost_one_request(example: Example, place: str) -> None:
    for way in example.ways:
        metrics = FaultyMetrics(place)
        whole = WholeApp(metrics=metrics)
        metrics.armed = True
        answers = asyncio.run(together(whole, example, [{**(example.body or {}), **way}] * 4))
        assert sum(map(bool, answers)) >= 3
        assert not metrics.armed
        assert whole.idle


class Slow(FakeEngine):
    """Takes a request only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.hold_after = 2

    async def submit(self, *args: Any, **kwargs: Any) -> Any:
        stream = Watched(await super().submit(*args, **kwargs), self.closed)
        self.asked.set()
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
        except BaseException:
            await stream.aclose()
            raise
        return stream


class Watched:
    """A stream that tells when it is closed, which one that was never begun does not."""

    def __init__(self, stream: Any, closed: threading.Event) -> None:
        self.stream, self.closed = stream, closed

    def __aiter__(self) -> Watched:
        return self

    async def __anext__(self) -> Any:
        return await anext(self.stream)

    async def aclose(self) -> None:
        await self.stream.aclose()
        self.closed.set()


@pytest.mark.parametrize("example", GENERATING, ids=named(GENERATING))
def test_a_client_that_leaves_while_it_is_being_admitted_leaves_nothing(example: Example) -> None:
    for way in example.ways:
        engine = Slow()
        whole = WholeApp(engine)
        with LiveServer(whole.app) as server:
            hang_up(server, example.url, {**(example.body or {}), **way}, engine.asked.is_set)
            engine.go.set()
            wait_for(engine.closed.is_set)
            wait_for(lambda whole=whole: whole.idle)  # type: ignore[misc]
            with httpx.Client(base_url=server.url) as client:
                assert client.get("/ready").status_code == 200
