"""`AsyncLLM`: streams, aborts, cancellation, failures, shutdown."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import psutil
import pytest

from quire import AsyncLLM, RequestOutput, SamplingParams
from quire.errors import EngineError, InvalidRequestError, RequestFailedError
from quire.testing.model import Reference

from .conftest import random_prompt

Checkpoint = Callable[[str], Reference]
LONG = SamplingParams(max_tokens=150, ignore_eos=True, temperature=0.0)


def drive(checkpoint: Checkpoint, body: Callable[[AsyncLLM], Awaitable[None]]) -> None:
    """Run a coroutine with an engine of its own, within half a minute."""

    async def main() -> None:
        model = str(checkpoint("llama").directory)
        async with await AsyncLLM.start(
            model, show_progress=False, dtype="float32", kv_cache_memory_bytes="8MiB"
        ) as llm:
            await body(llm)

    asyncio.run(asyncio.wait_for(main(), timeout=60))


async def collect(
    llm: AsyncLLM, length: int, params: SamplingParams, request_id: str | None = None
) -> list[RequestOutput]:
    prompt = {"prompt_token_ids": random_prompt(length, seed=length)}
    return [output async for output in llm.generate(prompt, params, request_id)]


async def settled(llm: AsyncLLM) -> None:
    """Wait until nothing runs any more."""
    for _ in range(200):
        stats = await llm.get_metrics()
        if stats.num_running == stats.num_waiting == 0 and all(group.used == 0 for group in stats.kv):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still busy: {stats}")


def test_many_streams_at_once_equal_each_alone(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        params = SamplingParams(max_tokens=12, temperature=1.0, seed=5, ignore_eos=True)
        alone = [(await collect(llm, length, params))[-1] for length in (3, 9, 30)]
        together = await asyncio.gather(*(collect(llm, length, params) for length in (3, 9, 30)))
        for one, snapshots in zip(alone, together, strict=True):
            assert snapshots[-1].outputs[0].token_ids == one.outputs[0].token_ids
            assert snapshots[-1].finished
            lengths = [len(snapshot.outputs[0].token_ids) for snapshot in snapshots]
            assert lengths == sorted(lengths)
            assert len(snapshots) > 1

    drive(checkpoint, body)


def test_abort_ends_the_stream_with_its_reason(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        seen: list[RequestOutput] = []
        async for output in llm.generate("abc", LONG, "mine"):
            assert output.request_id == "mine"
            seen.append(output)
            if len(seen) == 3:
                await llm.abort("mine")
        assert seen[-1].outputs[0].finish_reason == "abort"
        assert len(seen[-1].outputs[0].token_ids) < 150
        await llm.abort("mine")
        await settled(llm)

    drive(checkpoint, body)


def test_leaving_and_cancelling_abort(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        async for _ in llm.generate("abc", LONG):
            break
        await settled(llm)
        task = asyncio.create_task(collect(llm, 5, LONG))
        await asyncio.sleep(0.005)  # a fast machine generates all of it in ten times that
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled(llm)

    drive(checkpoint, body)


def test_equal_names_of_two_callers_do_not_mix(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
        alone = [(await collect(llm, length, params))[-1] for length in (4, 11)]
        twins = await asyncio.gather(collect(llm, 4, params, "x"), collect(llm, 11, params, "x"))
        for one, snapshots in zip(alone, twins, strict=True):
            assert snapshots[-1].outputs[0].token_ids == one.outputs[0].token_ids

    drive(checkpoint, body)


def test_chat_and_bad_input(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        messages = [{"role": "user", "content": "hi"}]
        outputs = [output async for output in llm.chat(messages, SamplingParams(max_tokens=2))]
        assert outputs[-1].prompt == "<s>[user]hi\n[assistant]"
        with pytest.raises(InvalidRequestError, match="prompt"):
            await collect(llm, 0, LONG)
        await llm.reset_prefix_cache()

    drive(checkpoint, body)


def test_one_failed_request_raises_for_its_caller_only(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        sampler = llm._client._client.core.executor.worker.sampler  # type: ignore[attr-defined]
        add = sampler.add

        def picky(slot: int, params: SamplingParams, *rest: object) -> None:
            if params.seed == 13:
                raise RuntimeError("unlucky")
            add(slot, params, *rest)

        sampler.add = picky
        good, bad = await asyncio.gather(
            collect(llm, 6, SamplingParams(max_tokens=5, seed=1, ignore_eos=True)),
            collect(llm, 7, SamplingParams(max_tokens=5, seed=13)),
            return_exceptions=True,
        )
        assert isinstance(bad, RequestFailedError)
        assert "unlucky" in str(bad)
        assert isinstance(good, list)
        assert len(good[-1].outputs[0].token_ids) == 5

    drive(checkpoint, body)


def test_a_dead_engine_fails_streams_and_later_calls(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        core = llm._client._client.core  # type: ignore[attr-defined]

        def broken(plan: object) -> None:
            raise RuntimeError("the device fell off")

        core.executor.submit = broken
        with pytest.raises(EngineError, match="the device fell off"):
            await collect(llm, 5, LONG)
        with pytest.raises(EngineError, match="the device fell off"):
            await collect(llm, 5, LONG)

    drive(checkpoint, body)


def test_shutdown_ends_streams_and_threads(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        task = asyncio.create_task(collect(llm, 5, LONG))
        await asyncio.sleep(0.005)
        await asyncio.to_thread(llm.shutdown)
        with pytest.raises(EngineError, match="shut down"):
            await task
        with pytest.raises(EngineError, match="shut down"):
            await collect(llm, 5, LONG)

    drive(checkpoint, body)
    assert not [thread for thread in threading.enumerate() if thread.name == "quire-engine"]


def test_an_idle_engine_uses_no_processor(checkpoint: Checkpoint) -> None:
    async def body(llm: AsyncLLM) -> None:
        await collect(llm, 5, SamplingParams(max_tokens=3))
        threads = {thread.id: thread for thread in psutil.Process().threads()}
        engine = next(t for t in threading.enumerate() if t.name == "quire-engine").native_id
        assert engine is not None
        before = threads[engine]
        time.sleep(0.5)
        after = next(thread for thread in psutil.Process().threads() if thread.id == engine)
        used = after.user_time + after.system_time - before.user_time - before.system_time
        assert used < 0.05

    drive(checkpoint, body)
