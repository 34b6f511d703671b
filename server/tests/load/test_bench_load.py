"""Runs against a server: what is sent, what is measured, and how failures are told apart."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from quire.errors import ConfigError
from quire_server.bench import Address, Lengths, LoadSettings, Run, run_load, summarise
from quire_server.bench.client import Sample

if TYPE_CHECKING:
    from server.tests.load.conftest import Served


def go(served: Served, *, api_key: str | None = None, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "num_requests": 4,
        "concurrency": 2,
        "warmup": 0,
        "input_len": Lengths(3, 8),
        "output_len": Lengths(3, 6),
    }
    settings = LoadSettings(**(values | changes))
    return asyncio.run(run_load(Address.parse(served.url), settings, api_key=api_key))


def test_every_request_is_sent_once_and_measured(served: Served) -> None:
    seen: list[Sample] = []
    settings = LoadSettings(num_requests=9, concurrency=3, warmup=2, output_len=Lengths(3, 6))
    run = asyncio.run(run_load(Address.parse(served.url), settings, on_done=seen.append))
    assert [one.index for one in run.samples] == list(range(9))
    assert len(seen) == 9
    assert len(served.bodies) == 11
    for one in run.samples:
        request = run.settings.workload.request(one.index)
        assert one.failure is None
        assert (one.prompt_tokens, one.output_tokens, one.counted_by) == (5, request.output_len, "usage")
        assert len(one.times) == request.output_len
        assert one.due <= one.sent <= one.times[0]
        assert one.times == sorted(one.times)
        assert one.times[-1] <= run.seconds
        assert {"prompt": request.prompt, "max_tokens": request.output_len}.items() <= next(
            body.items() for body in served.bodies if body["prompt"] == request.prompt
        )
    assert served.most <= 3
    assert run.settings.model == "one"
    assert run.server == {"id": "one", "max_model_len": 99}


def test_bodies_say_what_the_settings_say(served: Served) -> None:
    go(served, num_requests=1, model="two", temperature=0.5, return_token_ids=True)
    go(served, num_requests=1, ignore_eos=False)
    first, second = served.bodies
    assert first["model"] == "two"
    assert first["temperature"] == 0.5
    assert first["ignore_eos"] is first["return_token_ids"] is first["stream"] is True
    assert first["stream_options"] == {"include_usage": True}
    assert "ignore_eos" not in second
    assert "return_token_ids" not in second


def test_chats_have_messages_and_their_role_chunk_is_no_token(served: Served) -> None:
    run = go(served, endpoint="chat")
    assert [one.failure for one in run.samples] == [None] * 4
    assert all(len(one.times) == one.output_len for one in run.samples)
    content = served.bodies[0]["messages"][0]["content"]
    assert 3 <= len(content.split()) <= 8


@pytest.mark.parametrize(
    ("how", "failure", "status"),
    [
        ("busy", "http_429", 429),
        ("error", "http_500", 500),
        ("break", "broken_stream", 200),
        ("no_done", "broken_stream", 200),
        ("stream_error", "stream_error", 200),
        ("garbage", "malformed_event", 200),
        ("empty", "empty", 200),
        ("whole", "not_a_stream", 200),
        ("hang", "timeout", 0),
    ],
)
def test_failures_have_reasons_and_spare_the_others(
    served: Served, how: str, failure: str, status: int
) -> None:
    served.next.extend(["", how, ""])
    run = go(served, concurrency=1, timeout=0.3)
    assert [one.failure for one in run.samples] == [None, failure, None, None]
    assert run.samples[1].status == status
    assert run.samples[1].detail
    assert summarise(run.samples, run.seconds).failures == {failure: 1}


def test_without_usage_ids_are_counted_and_without_them_chunks(served: Served) -> None:
    served.next.extend(["no_usage"] * 2)
    by_ids = go(served, num_requests=1, return_token_ids=True).samples[0]
    by_chunks = go(served, num_requests=1).samples[0]
    assert (by_ids.counted_by, by_ids.output_tokens) == ("token_ids", by_ids.output_len)
    assert (by_chunks.counted_by, by_chunks.output_tokens) == ("chunks", by_chunks.output_len)


def test_an_open_loop_does_not_wait_for_answers(served: Served) -> None:
    served.gap = 0.05
    run = go(served, request_rate=200.0, concurrency=64, num_requests=20, output_len=Lengths(4, 4))
    assert served.most > 10
    assert run.samples[-1].due < 0.5
    assert [one.due for one in run.samples] == sorted(one.due for one in run.samples)


def test_what_waits_for_a_place_is_late_and_its_latency_counts_the_wait(served: Served) -> None:
    served.gap = 0.02
    run = go(served, request_rate=1000.0, concurrency=1, num_requests=4, output_len=Lengths(3, 3))
    assert served.most == 1
    last = run.samples[-1]
    assert last.sent - last.due > 0.1
    assert last.ttft > 0.1
    assert summarise(run.samples, run.seconds).late >= 2


def test_a_run_ends_after_its_duration_and_what_has_begun_ends_too(served: Served) -> None:
    served.gap = 0.01
    run = go(served, num_requests=None, duration=0.15, output_len=Lengths(5, 5))
    assert 2 <= len(run.samples) < 20
    assert all(one.due < 0.15 and one.failure is None for one in run.samples)
    assert run.seconds > 0.15


def test_inter_token_latencies_are_the_servers(served: Served) -> None:
    served.gap = 0.03
    run = go(served, concurrency=1, num_requests=2, output_len=Lengths(5, 5))
    figures = summarise(run.samples, run.seconds).itl
    assert figures is not None
    assert 28 < figures.p50 < 60


def test_keys_are_shown(served: Served) -> None:
    served.key = "secret"
    with pytest.raises(ConfigError, match="--api-key"):
        go(served)
    go(served, api_key="secret", num_requests=1)
    assert served.headers[0]["authorization"] == "Bearer secret"


def test_a_server_without_models_needs_a_name(served: Served) -> None:
    served.models = []
    with pytest.raises(ConfigError, match="--model"):
        go(served)
    assert go(served, model="mine", num_requests=1).samples[0].failure is None


def test_a_failing_warm_up_ends_the_run(served: Served) -> None:
    served.next.append("error")
    with pytest.raises(ConfigError, match=r"warm-up.*http_500"):
        go(served, warmup=1)


def test_no_server_is_said_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
        asyncio.run(run_load(Address.parse(f"http://127.0.0.1:{port}"), LoadSettings()))


def test_a_server_that_goes_away_is_not_asked_a_million_times() -> None:
    async def body() -> Run:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            models = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(models))
            writer.write(models)
            await writer.drain()
            writer.close()
            server.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings = LoadSettings(num_requests=None, duration=0.6, concurrency=2, warmup=0)
        return await run_load(Address.parse(f"http://127.0.0.1:{port}"), settings)

    run = asyncio.run(body())
    assert {sample.failure for sample in run.samples} == {"connect"}
    assert 2 <= len(run.samples) <= 8
