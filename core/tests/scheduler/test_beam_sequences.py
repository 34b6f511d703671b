"""Beam searches in the scheduler: forks, seats, and who waits for whom."""

from __future__ import annotations

from typing import Any

import pytest

from quire.kv import PoolUsage

from .fake_model import EOS
from .harness import Harness, config, request


def beams(name: str = "b", length: int = 6, width: int = 4, **changes: Any) -> Any:
    given: dict[str, Any] = {"n": 2, "eos_token_ids": (EOS,), "max_tokens": 8, **changes}
    prompt = [(7 * i + len(name)) % 5 for i in range(length)]
    return request(name, prompt, use_beam_search=True, best_of=width, **given)


def used(harness: Harness) -> list[int]:
    usage: tuple[PoolUsage, ...] = harness.scheduler.stats().kv
    return [one.used for one in usage]


@pytest.mark.parametrize("lag", [0, 1, 2])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length", [1, 3, 4, 5, 9])
def test_a_search_finds_what_it_must(length: int, early_stopping: Any, caching: bool, lag: int) -> None:
    harness = Harness(config(num_blocks=(65, 70), enable_prefix_caching=caching), lag)
    for width in (1, 2, 3, 4):
        harness.add(
            beams(f"b{width}", length, width, n=width, early_stopping=early_stopping, length_penalty=0.6)
        )
    harness.run()
    harness.check_finished()


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_more_beams_than_slots_take_turns(slots: int, policy: str) -> None:
    harness = Harness(config(max_num_seqs=slots, policy=policy))
    harness.add(beams("a"))
    harness.add(request("plain", [1, 2, 3], max_tokens=20))
    harness.add(beams("b", priority=-1))
    harness.run()
    harness.check_finished()


@pytest.mark.parametrize("blocks", [5, 6, 8, 11])
@pytest.mark.parametrize("windows", [(), (5,)])
def test_beams_in_a_pool_for_one_of_them(blocks: int, windows: tuple[int, ...]) -> None:
    harness = Harness(config(num_blocks=(blocks,), windows=windows, max_num_batched_tokens=5))
    harness.add(beams("a", 7, 4, max_tokens=9))
    harness.add(request("plain", [1, 2, 3], max_tokens=9, n=2))
    harness.add(beams("b", 3, 3, max_tokens=9))
    harness.run()
    harness.check_finished()


def test_full_blocks_are_shared_and_what_is_left_behind_is_given_back() -> None:
    harness = Harness(config(num_blocks=(65,), enable_prefix_caching=False))
    harness.add(beams(length=16, width=4, ignore_eos=True))
    for _ in range(6):
        harness.step()
        # The prompt's four blocks are there once, and at most two of each beam's own.
        assert used(harness)[0] <= 4 + 4 * 2
    harness.run()
    harness.check_finished()


def test_a_beam_that_goes_on_keeps_its_seat_and_nothing_is_computed_twice() -> None:
    harness = Harness(config(num_blocks=(65,), max_num_seqs=8, enable_prefix_caching=False))
    harness.add(beams(length=6, width=3, max_tokens=8, ignore_eos=True))
    harness.run()
    harness.check_finished()
    starts = [start for plan in harness.plans for start in plan.starts]
    assert all(start.num_computed == len(start.token_ids) - 1 for start in starts[1:])
    assert sum(plan.num_tokens for plan in harness.plans) == 6 + 3 * 7
    assert len(starts) < 1 + 3 * 7


def test_steps_of_a_search_do_not_overlap_while_those_of_others_do() -> None:
    harness = Harness(config(num_blocks=(65,), max_num_seqs=8), lag=1)
    harness.add(beams(width=3, ignore_eos=True))
    harness.add(request("plain", [1, 2, 3], max_tokens=30))
    harness.step()
    for _ in range(8):
        plan = harness.plan()
        seated = {sequence.slot: sequence for sequence in harness.scheduler._roster.running}
        kinds = [seated[slot].beam is not None for slot in plan.slots]
        assert kinds.count(False) == 1
        harness.collect()
    harness.run()
    harness.check_finished()


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("lag", [0, 1])
def test_abort(steps: int, lag: int) -> None:
    harness = Harness(config(max_num_seqs=3), lag)
    harness.add(beams(n=3, ignore_eos=True))
    for _ in range(steps):
        harness.step()
    assert harness.abort("b", 1) == []
    ended = harness.abort("b")
    assert [(one.index, one.finish_reason, one.token_ids) for one in ended] == [
        (index, "abort", []) for index in range(3)
    ]
    harness.run()
    harness.check_finished()


@pytest.mark.parametrize("steps", range(4))
def test_a_beam_that_fails_ends_the_search(steps: int) -> None:
    harness = Harness(config())
    harness.add(beams(ignore_eos=True))
    for _ in range(steps):
        harness.step()
    harness.worker.failing.add("b")
    harness.run()
    assert [harness.outputs["b", index][-1].error for index in range(2)] == ["NaN", "NaN"]
    harness.check_finished()


def test_nobody_continues_a_beam_but_the_search() -> None:
    harness = Harness(config(num_speculative_tokens=3))
    harness.add(beams())
    harness.step()
    assert harness.scheduler.append("b", 0, [1, 2]) is None
    harness.run()
    harness.check_finished()
    assert all(not plan.propose for plan in harness.plans)


def test_prompt_log_probabilities_come_once() -> None:
    harness = Harness(config(max_num_seqs=2, num_blocks=(8,), max_num_batched_tokens=3))
    harness.add(beams(length=9, prompt_logprobs=0))
    harness.run()
    harness.check_finished()
