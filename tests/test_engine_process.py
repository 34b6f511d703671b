"""The engine in a process of its own: the same tokens, several clients, and every way it can end."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import psutil
import pytest
import zmq
import zmq.asyncio

from quire import LLM, AsyncLLM, EngineConfig, EngineProcess, RequestOutput, SamplingParams
from quire.errors import EngineError, InvalidRequestError, ModelNotFoundError, OverloadedError
from quire.testing.model import Reference

from .conftest import random_prompt

Checkpoint = Callable[[str], Reference]
SHORT = SamplingParams(max_tokens=8, temperature=1.0, seed=3, ignore_eos=True)
LONG = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)


def config(checkpoint: Checkpoint, **settings: object) -> EngineConfig:
    model = str(checkpoint("llama").directory)
    return EngineConfig(**{"model": model, "dtype": "float32", "kv_cache_memory_bytes": "8MiB"} | settings)


@asynccontextmanager
async def running(engine: EngineConfig, max_queue: int | None = None) -> AsyncIterator[EngineProcess]:
    """An engine process, stopped in the end."""
    with tempfile.TemporaryDirectory() as directory:
        process = EngineProcess(engine, f"ipc://{directory}/engine", max_queue=max_queue, show_progress=False)
        try:
            await process.ready()
            yield process
        finally:
            process.stop()


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), timeout=90))


async def collect(llm: AsyncLLM, length: int, params: SamplingParams) -> list[RequestOutput]:
    return [output async for output in llm.generate(random_prompt(length, seed=length), params)]


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait for a condition; how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it did not come true"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


def test_several_clients_get_the_tokens_of_an_engine_in_process(checkpoint: Checkpoint) -> None:
    with LLM(config=config(checkpoint), show_progress=False) as llm:
        prompts = [random_prompt(length, seed=length) for length in (3, 9, 30)]
        expected = [one.outputs[0].token_ids for one in llm.generate(prompts, SHORT, use_tqdm=False)]

    async def body() -> None:
        async with (
            running(config(checkpoint)) as process,
            await AsyncLLM.connect(process.endpoint) as first,
            await AsyncLLM.connect(process.endpoint, stream=1) as second,
        ):
            both = [collect(llm, length, SHORT) for llm in (first, second) for length in (3, 9, 30)]
            found = [outputs[-1].outputs[0].token_ids for outputs in await asyncio.gather(*both)]
            assert found == expected * 2
            deltas = [one async for one in first.generate(random_prompt(9, seed=9), SHORT, deltas=True)]
            assert [token for one in deltas for token in one.outputs[0].token_ids] == expected[1]
            whole = (await collect(first, 9, SHORT))[-1].outputs[0].text
            assert "".join(one.outputs[0].text for one in deltas) == whole
            await second.reset_prefix_cache()
            metrics = await second.get_metrics()
            assert metrics.num_running == metrics.num_waiting == 0
            assert second.stats.generation_tokens == 8 * 8
            seeds = [llm._inputs.prepare([1], SamplingParams()).engine.seed for llm in (first, second)]
            assert seeds[0] != seeds[1]

    run(body)


def test_refusals_come_back_as_they_were_raised(checkpoint: Checkpoint) -> None:
    async def body() -> None:
        small = config(checkpoint, max_num_seqs=2)
        async with running(small, max_queue=1) as process, await AsyncLLM.connect(process.endpoint) as llm:
            with pytest.raises(InvalidRequestError, match="maximum context length") as refused:
                await llm.submit([1] * 5000)
            assert refused.value.field == "prompt"
            streams = [await llm.submit([1, 2, 3], LONG) for _ in range(3)]
            with pytest.raises(OverloadedError, match="max_queue is 1"):
                await llm.submit([1, 2, 3], LONG)
            for stream in streams:
                await stream.aclose()
            await llm.get_metrics()
            stream = await llm.submit([1, 2, 3], LONG)
            await stream.aclose()

    run(body)


def test_what_stands_in_the_way_of_loading_reaches_the_caller() -> None:
    async def body() -> None:
        with pytest.raises(ModelNotFoundError, match="no/such/model"):
            async with running(EngineConfig(model="no/such/model")):
                pass

    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        run(body)
    finally:
        del os.environ["HF_HUB_OFFLINE"]


def test_a_killed_engine_ends_streams_within_a_second(checkpoint: Checkpoint) -> None:
    async def body() -> None:
        async with running(config(checkpoint)) as process, await AsyncLLM.connect(process.endpoint) as llm:
            stream = await llm.submit([1, 2, 3], LONG)
            await anext(stream)
            os.kill(process.pid, signal.SIGKILL)
            killed = time.monotonic()
            with pytest.raises(EngineError, match="has ended"):
                async for _ in stream:
                    pass
            assert time.monotonic() - killed < 1
            assert llm.health == "dead"
            with pytest.raises(EngineError, match="has ended"):
                await llm.submit([1, 2, 3], LONG)
            assert "signal 9" in str(await process.ended())

    run(body)


def test_a_client_goes_on_with_an_engine_that_was_started_anew(checkpoint: Checkpoint) -> None:
    async def body() -> None:
        async with (
            running(config(checkpoint)) as process,
            await AsyncLLM.connect(process.endpoint, restarts=True) as llm,
        ):
            before = (await collect(llm, 5, SHORT))[-1].outputs[0].token_ids
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda: llm.health == "loading")
            await process.ended()
            again = EngineProcess(config(checkpoint), process.endpoint, show_progress=False)
            try:
                await again.ready()
                await until(lambda: llm.health == "ready")
                assert (await collect(llm, 5, SHORT))[-1].outputs[0].token_ids == before
            finally:
                again.stop()

    run(body)


def test_a_stopped_engine_counts_as_stalled_and_may_come_back(checkpoint: Checkpoint) -> None:
    async def body() -> None:
        async with (
            running(config(checkpoint)) as process,
            await AsyncLLM.connect(process.endpoint, stall_timeout=2.0) as llm,
        ):
            await asyncio.sleep(2.5)
            assert llm.health == "ready"  # an idle engine gives signs of life
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: llm.health == "stalled")
            os.kill(process.pid, signal.SIGCONT)
            await until(lambda: llm.health == "ready")

    run(body)


def test_requests_of_a_front_end_that_died_are_aborted(checkpoint: Checkpoint) -> None:
    async def body() -> None:
        async with running(config(checkpoint)) as process, await AsyncLLM.connect(process.endpoint) as llm:
            doomed = await AsyncLLM.connect(process.endpoint)
            stream = await doomed.submit([1, 2, 3], SamplingParams(max_tokens=1000, ignore_eos=True))
            await anext(stream)
            doomed.shutdown()  # closes the socket without a word, as the death of a process does

            async def gone() -> bool:
                metrics = await llm.get_metrics()
                return metrics.num_running == 0 and metrics.kv[0].used == 0

            for _ in range(300):
                if await gone():
                    break
                await asyncio.sleep(0.01)
            assert await gone()
            assert llm.stats.generation_tokens < 1000
            with pytest.raises(EngineError, match="shut down"):
                async for _ in stream:  # what had come before is still told
                    pass

    run(body)


class _Canary:
    """Leaves a mark if anyone ever unpickles it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.path,))


def test_the_socket_takes_no_pickles_and_survives_nonsense(checkpoint: Checkpoint) -> None:
    async def body() -> None:
        with tempfile.TemporaryDirectory() as directory:
            mark = f"{directory}/mark"
            nonsense = [
                pickle.dumps(_Canary(mark)),
                b"",
                b"\xc1" * 100,
                msgspec.msgpack.encode({"type": "Add"}),
                msgspec.msgpack.encode({"type": "Abort", "request_id": "0"}),
                msgspec.msgpack.encode({"type": "Call", "call_id": 1, "name": "shutdown"}),
                b"\x91" * 100_000,
            ]
            async with running(config(checkpoint)) as process:
                context = zmq.asyncio.Context()
                socket = context.socket(zmq.DEALER)
                socket.connect(process.endpoint)
                for data in nonsense:
                    await socket.send(data)
                    await socket.send_multipart([data, data])
                async with await AsyncLLM.connect(process.endpoint) as llm:
                    assert len((await collect(llm, 5, SHORT))[-1].outputs[0].token_ids) == 8
                await socket.send(msgspec.msgpack.encode({"type": "Hello"}))
                await socket.recv()
                await socket.send(msgspec.msgpack.encode({"type": "Add", "request": {"request_id": "mine"}}))
                refused: list[list[str]] = []
                while not refused:
                    refused = msgspec.msgpack.decode(await socket.recv()).get("refused", [])
                assert refused[0][:2] == ["mine", "InvalidRequestError"]
                assert "cannot read" in refused[0][2]
                socket.close(0)
                context.term()
            assert not os.path.exists(mark)

    run(body)


PARENT = """
import asyncio, sys, time
from quire import EngineConfig, EngineProcess
config = EngineConfig(model=sys.argv[1], kv_cache_memory_bytes="8MiB")
process = EngineProcess(config, sys.argv[2], show_progress=False)
asyncio.run(process.ready())
print(process.pid, flush=True)
time.sleep(100)
"""


def test_no_engine_outlives_whoever_started_it(checkpoint: Checkpoint) -> None:
    with tempfile.TemporaryDirectory() as directory:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(checkpoint("llama").directory), f"ipc://{directory}/engine"],
            stdout=subprocess.PIPE,
            text=True,
        )
        with parent:
            assert parent.stdout is not None
            engine = psutil.Process(int(parent.stdout.readline()))
            parent.kill()
        engine.wait(timeout=10)


def test_an_idle_engine_uses_no_processor(checkpoint: Checkpoint) -> None:
    async def body() -> None:
        async with running(config(checkpoint)) as process, await AsyncLLM.connect(process.endpoint) as llm:
            await collect(llm, 5, SHORT)
            engine = psutil.Process(process.pid)
            before, start = sum(engine.cpu_times()[:2]), time.monotonic()
            await asyncio.sleep(3)
            assert sum(engine.cpu_times()[:2]) - before < 0.01 * (time.monotonic() - start) + 0.02

    run(body)
