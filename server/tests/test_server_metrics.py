"""Metrics: what is counted, under which names, in how many series, over how many processes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from quire import (
    CompletionOutput,
    DraftStats,
    EngineStats,
    RequestOutput,
    SamplingParams,
    SchedulerStats,
    StructuredOutputsParams,
)
from quire.errors import OverloadedError
from quire.outputs import FinishReason, RequestMetrics
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import METRIC_NAMES, ServerMetrics
from quire_server.metrics.exposition import Exposition
from quire_server.metrics.names import VLLM
from quire_server.metrics.shared import shared_metrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service, Work
from quire_server.testing import FakeEngine, echo

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The figures of a block pool."""

    free: int
    used: int
    cached: int
    total: int


def busy_stats() -> EngineStats:
    return EngineStats(
        scheduler=SchedulerStats(
            num_running=3,
            num_waiting=2,
            num_preemptions=7,
            kv=(Blocks(10, 20, 34, 64), Blocks(0, 60, 4, 64)),  # type: ignore[arg-type]
            prefix_queries=100,
            prefix_hits=40,
            drafts=DraftStats(10, 30, 12, 22, (7, 4, 1)),
        ),
        steps=5,
        prompt_tokens=60,
        generation_tokens=50,
        step_seconds=0.5,
        step_histogram=(1, 2, *[0] * 11, 2),
    )


def parse(text: str) -> tuple[dict[str, str], Samples]:
    """Type by family, value by sample."""
    kinds: dict[str, str] = {}
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        kinds[family.name + ("_total" if family.type == "counter" else "")] = family.type
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return kinds, samples


def scrape(metrics: ServerMetrics, engine: FakeEngine, vllm: bool = True) -> tuple[dict[str, str], Samples]:
    return parse(Exposition(metrics, engine, "m", vllm=vllm).render().decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.fixture
def client() -> Iterator[TestClient]:
    with make_client() as client:
        yield client


def make_client(engine: FakeEngine | None = None, **settings: Any) -> TestClient:
    service = Service(engine or FakeEngine(), ServeConfig(**settings), ServerMetrics())
    return TestClient(build_app(service, [ops(service), echo.front_end(service)]))


@pytest.mark.parametrize("vllm", [False, True])
def test_exactly_the_listed_names_exist_with_their_types(vllm: bool) -> None:
    with make_client(vllm_metrics=vllm) as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    kinds, _ = parse(answer.text)
    assert kinds == {name: kind for name, kind in METRIC_NAMES.items() if vllm or name not in VLLM}


def test_names_that_routers_and_autoscalers_scrape() -> None:
    engine = FakeEngine()
    engine.stats = busy_stats()
    _, samples = scrape(ServerMetrics(), engine)
    labels = {"model_name": "m"}
    for name, expected in {
        "vllm:num_requests_running": 3,
        "vllm:num_requests_waiting": 2,
        "vllm:kv_cache_usage_perc": 60 / 64,
        "vllm:gpu_cache_usage_perc": 60 / 64,
        "vllm:num_preemptions_total": 7,
        "vllm:prefix_cache_queries_total": 100,
        "vllm:prefix_cache_hits_total": 40,
        "vllm:prompt_tokens_total": 60,
        "vllm:generation_tokens_total": 50,
        "vllm:spec_decode_num_drafts_total": 10,
        "vllm:spec_decode_num_draft_tokens_total": 30,
        "vllm:spec_decode_num_accepted_tokens_total": 12,
        "vllm:spec_decode_num_emitted_tokens_total": 22,
        "vllm:spec_decode_draft_acceptance_rate": 0.4,
    }.items():
        assert value(samples, name, **labels) == pytest.approx(expected), name
    per_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    assert [value(samples, per_position, **labels, position=str(place)) for place in range(3)] == [7, 4, 1]
    assert value(samples, "vllm:cache_config_info", **labels, block_size="16", num_gpu_blocks="64") == 1
    assert value(samples, "vllm:request_success_total", **labels, finished_reason="stop") == 0


def test_step_times_are_a_histogram() -> None:
    engine = FakeEngine()
    engine.stats = busy_stats()
    _, samples = scrape(ServerMetrics(), engine)
    assert value(samples, "quire_step_seconds_bucket", le="0.001") == 1
    assert value(samples, "quire_step_seconds_bucket", le="10.0") == 3
    assert value(samples, "quire_step_seconds_bucket", le="+Inf") == 5
    assert value(samples, "quire_step_seconds_count") == 5
    assert value(samples, "quire_step_seconds_sum") == 0.5
    assert value(samples, "quire_kv_blocks", group="1", state="used") == 60


@pytest.mark.parametrize(("health", "ready"), [("ready", 1), ("loading", 0), ("stalled", 0), ("dead", 0)])
def test_engine_ready(health: Any, ready: int) -> None:
    engine = FakeEngine()
    engine.health = health
    assert value(scrape(ServerMetrics(), engine)[1], "quire_engine_ready") == ready


def output(
    new: int, finish: FinishReason | None = None, times: RequestMetrics | None = None
) -> RequestOutput:
    completion = CompletionOutput(index=0, text="", token_ids=[1] * new, finish_reason=finish)
    return RequestOutput(
        request_id="r",
        prompt=None,
        prompt_token_ids=[1, 2, 3],
        outputs=[completion],
        finished=finish is not None,
        metrics=times,
    )


class Stream:
    """Given outputs or exceptions, one after the other."""

    def __init__(self, *items: RequestOutput | Exception) -> None:
        self.items = list(items)
        self.closed = False

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        if not self.items:
            raise StopAsyncIteration
        item = self.items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self) -> None:
        self.closed = True


def watch(stream: Stream, deltas: bool, most: int = 100) -> tuple[ServerMetrics, list[RequestOutput]]:
    """Iterate over at most so many outputs, then close."""
    metrics = ServerMetrics()

    async def run() -> list[RequestOutput]:
        observed = metrics.observe(stream, SamplingParams(), deltas=deltas)
        found: list[RequestOutput] = []
        try:
            while len(found) < most:
                found.append(await anext(observed))
        except (StopAsyncIteration, RuntimeError):
            pass
        await observed.aclose()
        return found

    return metrics, asyncio.run(run())


def test_a_streamed_request_is_counted_once_whole() -> None:
    times = RequestMetrics(100.0, 100.5, 101.5, 103.5)
    items = (output(1, times=times), output(2, times=times), output(1, "length", times))
    stream = Stream(*items)
    metrics, found = watch(stream, deltas=True)
    assert found == list(items)
    assert stream.closed
    _, samples = scrape(metrics, FakeEngine())
    for name, expected in {
        "quire_request_queue_time_seconds": 0.5,
        "quire_request_prefill_time_seconds": 1.0,
        "quire_request_decode_time_seconds": 2.0,
        "quire_e2e_request_latency_seconds": 3.5,
        "quire_time_to_first_token_seconds": 1.5,
        "quire_time_per_output_token_seconds": 2.0 / 3,
        "quire_request_prompt_tokens": 3,
        "quire_request_generation_tokens": 4,
    }.items():
        assert value(samples, f"{name}_sum") == pytest.approx(expected), name
        assert value(samples, f"{name}_count") == 1, name
    assert value(samples, "quire_inter_token_latency_seconds_count") == 2
    assert value(samples, "quire_requests_finished_total", reason="length") == 1
    assert sum(count for (name, _), count in samples.items() if name == "quire_requests_finished_total") == 1
    assert list(metrics.recent_ttft) == [1.5]
    assert len(metrics.recent_itl) == 2


def test_a_whole_answer_counts_its_tokens_once() -> None:
    """Without deltas every output repeats what came before."""
    times = RequestMetrics(0.0, 0.0, 1.0, 3.0)
    metrics, _ = watch(Stream(output(1), output(2), output(3, "stop", times)), deltas=False)
    _, samples = scrape(metrics, FakeEngine())
    assert value(samples, "quire_request_generation_tokens_sum") == 3
    assert value(samples, "quire_time_per_output_token_seconds_sum") == 1.0
    assert value(samples, "quire_time_to_first_token_seconds_sum") == 1.0
    assert value(samples, "quire_requests_finished_total", reason="stop") == 1


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_closing_early_is_an_abort_and_closes_the_stream(seen: int) -> None:
    stream = Stream(output(1), output(1), output(1, "stop"))
    metrics, _ = watch(stream, deltas=True, most=seen)
    assert stream.closed
    _, samples = scrape(metrics, FakeEngine())
    assert value(samples, "quire_requests_finished_total", reason="abort") == 1
    assert value(samples, "quire_requests_finished_total", reason="stop") == 0


def test_a_failure_is_an_error() -> None:
    metrics, _ = watch(Stream(output(1), RuntimeError("no")), deltas=True)
    _, samples = scrape(metrics, FakeEngine())
    assert value(samples, "quire_requests_finished_total", reason="error") == 1
    assert value(samples, "quire_requests_finished_total", reason="abort") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_requests_through_the_server_are_counted(client: TestClient, stream: bool) -> None:
    client.post("/echo/generate", json={"prompt": "abc", "max_tokens": 5, "stream": stream})
    _, samples = parse(client.get("/metrics").text)
    assert value(samples, "quire_requests_finished_total", reason="length") == 1
    assert value(samples, "quire_request_generation_tokens_sum") == 5
    assert value(samples, "quire_request_prompt_tokens_sum") == 4  # the BOS and three bytes
    assert value(samples, "quire_time_to_first_token_seconds_count") == 1
    labels = {"method": "POST", "route": "/echo/generate", "status": "200"}
    assert value(samples, "quire_http_requests_total", **labels) == 1


def test_refusals_are_counted_by_reason() -> None:
    engine = FakeEngine()
    engine.refuse = OverloadedError("full")
    with make_client(engine, api_keys=["k"], max_body_bytes=100) as client:
        key = {"x-api-key": "k"}
        client.get("/version")
        client.post("/echo/generate", json={"prompt": "x"}, headers=key)
        client.post("/echo/generate", json={"prompt": "x" * 200}, headers=key)
        _, samples = parse(client.get("/metrics", headers=key).text)
    for reason in ("unauthorized", "queue_full", "request_too_large"):
        assert value(samples, "quire_requests_rejected_total", reason=reason) == 1


def test_time_spent_compiling_is_counted_once() -> None:
    async def body() -> Samples:
        engine, metrics = FakeEngine(), ServerMetrics()
        service = Service(engine, ServeConfig(), metrics)
        form = StructuredOutputsParams(regex="a+")
        for engine.compile_seconds in (1.5, 2.0):
            asked = SamplingParams(max_tokens=1, structured_outputs=form)
            await (await service.start(Work(prompts=["x"], params=asked))).aclose()
        return scrape(metrics, engine)[1]

    assert value(asyncio.run(body()), "quire_grammar_compile_seconds_total") == 2.0


def test_what_clients_make_up_adds_no_series() -> None:
    """Random methods, paths, models and reasons: the number of series stays what it is."""
    chance = random.Random(0)

    def word() -> str:
        return "".join(chance.choice("abcdefgh") for _ in range(8))

    metrics = ServerMetrics()
    service = Service(FakeEngine(), ServeConfig(), metrics)
    with TestClient(build_app(service, [ops(service), echo.front_end(service)])) as client:

        def go() -> int:
            for _ in range(30):
                client.request(word().upper(), "/" + word())
                client.request(word().upper(), "/health")
                client.get(f"/echo/open/{word()}")
                client.get(f"/echo/closed/{chance.randrange(10**6)}")
                client.get(f"/{word()}/{word()}", headers={"X-Request-Id": word(), "User-Agent": word()})
                client.post("/echo/generate", json={"prompt": word(), "model": word(), word(): 1})
                metrics.rejected(word())
            return len(parse(client.get("/metrics").text)[1])

        client.get("/metrics")  # its own series
        once = go()
        assert go() == once
        assert "/echo/open/{name}" in client.get("/metrics").text


COUNTING = """
import asyncio, json, os, sys
from quire_server.metrics import ServerMetrics
from quire_server.metrics.exposition import Exposition
from quire_server.testing import FakeEngine

metrics = ServerMetrics()
for _ in range(int(sys.argv[1])):
    metrics.http_request("GET", "/health", 200)
    metrics.next_token(0.02, now=0.0)
    metrics.rejected("queue_full")
metrics.flush()
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(Exposition(metrics, FakeEngine(), "m", vllm=True).render().decode()), flush=True)
sys.stdin.readline()
"""


def test_any_process_shows_the_sum_and_the_engine_once() -> None:
    with shared_metrics():
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", COUNTING, str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for count in (2, 3)
        ]
        try:
            assert [line(process) for process in processes] == ["ready", "ready"]
            shown = []
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                shown.append(parse(json.loads(line(process))))
        finally:
            for process in processes:
                process.communicate("\n")
    for kinds, samples in shown:
        assert {**METRIC_NAMES, **kinds} == METRIC_NAMES
        labels = {"method": "GET", "route": "/health", "status": "200"}
        assert value(samples, "quire_http_requests_total", **labels) == 5
        assert value(samples, "quire_inter_token_latency_seconds_count") == 5
        assert value(samples, "vllm:inter_token_latency_seconds_bucket", model_name="m", le="0.025") == 5
        assert value(samples, "quire_requests_rejected_total", reason="queue_full") == 5
        assert value(samples, "quire_engine_ready") == 1
        cache = {"block_size": "16", "num_gpu_blocks": "64"}
        assert value(samples, "quire_cache_config_info", **cache) == 1
    assert shown[0] == shown[1]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
