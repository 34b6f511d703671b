"""Requests that come together compute the prefix they share once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.scheduler import planner

from .harness import Harness, config, request

LONG = [i % 9 for i in range(96)]
ROOMY = {"max_num_batched_tokens": 512, "max_model_len": 256, "num_blocks": (257,)}


def test_the_first_computes_a_shared_prefix_and_the_others_start_with_it() -> None:
    harness = Harness(config(**ROOMY))
    for name, tail in (("a", [1]), ("b", [2]), ("c", [3])):
        harness.add(request(name, LONG + tail, max_tokens=2))
    assert harness.plan().counts == [97]
    harness.collect()
    assert sorted(harness.plan().counts) == [1, 1, 1]
    harness.collect()
    harness.run()
    harness.check_finished()
    assert sum(plan.num_tokens for plan in harness.plans) == 97 + 2 * 1 + 3


def test_one_that_shares_nothing_passes_those_that_wait_for_a_prefix() -> None:
    harness = Harness(config(**ROOMY))
    harness.add(request("a", [*LONG, 1]))
    harness.add(request("b", [*LONG, 2]))
    harness.add(request("other", [10] * 70))
    assert [start.request_id for start in harness.plan().starts] == ["a", "other"]
    harness.collect()
    assert [start.request_id for start in harness.plan().starts] == ["b"]
    harness.collect()
    harness.run()
    harness.check_finished()


@pytest.mark.parametrize(
    "changes", [{"cache_salt": "other"}, {"prompt_logprobs": 1}, {"adapter": "other"}], ids=str
)
def test_nobody_waits_for_blocks_that_it_cannot_use(changes: dict[str, Any]) -> None:
    harness = Harness(config(**ROOMY))
    harness.add(request("a", [*LONG, 1]))
    harness.add(request("b", [*LONG, 2], **changes))
    assert len(harness.plan().starts) == 2


def test_a_short_prefix_is_computed_twice_rather_than_waited_for() -> None:
    harness = Harness(config(**ROOMY))
    short = LONG[: planner._WORTH_WAITING - 4]
    harness.add(request("a", [*short, 10, 10, 10, 10]))
    harness.add(request("b", [*short, 9, 9, 9, 9]))
    assert len(harness.plan().starts) == 2


def test_a_prefix_whose_sequence_was_aborted_is_waited_for_no_longer() -> None:
    harness = Harness(config(**{**ROOMY, "max_num_batched_tokens": 32}))
    harness.add(request("a", [*LONG, 1]))
    harness.add(request("b", [*LONG, 2]))
    harness.step()
    harness.abort("a")
    assert [start.request_id for start in harness.plan().starts] == ["b"]
    harness.collect()
    harness.run()
    harness.check_finished()


@pytest.fixture
def one_block_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_WORTH_WAITING", 4)


@pytest.mark.usefixtures("one_block_is_worth_it")
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_whoever_waits_for_whom_everybody_gets_his_tokens(data: st.DataObject) -> None:
    harness = Harness(
        config(
            num_blocks=(data.draw(st.integers(13, 40)),),
            max_num_batched_tokens=data.draw(st.sampled_from([4, 16, 64])),
            policy=data.draw(st.sampled_from(["fcfs", "priority"])),
            max_model_len=40,
        ),
        lag=data.draw(st.integers(0, 1)),
    )
    for number in range(data.draw(st.integers(2, 9))):
        shared = LONG[: data.draw(st.sampled_from([0, 8, 16, 24]))]
        tail = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))
        priority = data.draw(st.integers(0, 2))
        harness.add(request(str(number), shared + tail, max_tokens=4, priority=priority))
        for _ in range(data.draw(st.integers(0, 2))):
            harness.step()
    harness.run()
    harness.check_finished()
