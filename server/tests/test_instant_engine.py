"""The instant engine keeps the promises of an engine as far as it goes, and refuses the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quire import RequestOutput, SamplingParams
from quire.errors import InvalidRequestError
from quire_server.testing.instant_engine import InstantEngine


def ask(*, deltas: bool, **params: Any) -> list[RequestOutput]:
    async def run() -> list[RequestOutput]:
        stream = await InstantEngine().submit([65, 66], SamplingParams(**params), deltas=deltas)
        return [output async for output in stream]

    return asyncio.run(run())


def test_deltas_are_single_tokens_and_add_up_to_the_whole() -> None:
    parts = ask(deltas=True, max_tokens=5)
    (whole,) = ask(deltas=False, max_tokens=5)
    assert [len(one.outputs[0].token_ids) for one in parts] == [1] * 5
    assert [one.finished for one in parts] == [False] * 4 + [True]
    assert [token for one in parts for token in one.outputs[0].token_ids] == whole.outputs[0].token_ids
    assert "".join(one.outputs[0].text for one in parts) == whole.outputs[0].text
    assert parts[-1].outputs[0].finish_reason == whole.outputs[0].finish_reason == "length"


@pytest.mark.parametrize("params", [{"n": 2}, {"stop": ["x"]}, {"logprobs": 1}, {"prompt_logprobs": 1}])
def test_what_it_cannot_do_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="instant engine"):
        ask(deltas=True, max_tokens=2, **params)


def test_streams_take_turns_and_a_closed_one_counts_as_aborted() -> None:
    engine = InstantEngine()
    order: list[str] = []

    async def read(name: str) -> None:
        nonlocal order
        stream = await engine.submit([65], SamplingParams(max_tokens=3), deltas=True)
        async for output in stream:
            order += [name] * len(output.outputs[0].token_ids)

    async def run() -> None:
        await asyncio.gather(read("a"), read("b"))
        stream: Any = await engine.submit([65], SamplingParams(max_tokens=9), deltas=True)
        await anext(stream)
        await stream.aclose()

    asyncio.run(run())
    assert order == ["a", "b"] * 3
    assert (engine.aborted, engine.running) == (1, 0)
