"""Several completions of one prompt."""

from __future__ import annotations

import itertools

import pytest

from quire.scheduler.state import completion_seed

from .harness import Harness, config, request


def test_completion_seeds_are_distinct_and_start_with_the_requests_own() -> None:
    seeds = [completion_seed(seed, index) for seed, index in itertools.product((0, 1, 2**63 - 1), range(50))]
    assert len(set(seeds)) == len(seeds)
    assert completion_seed(17, 0) == 17
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9])
def test_siblings_share_full_blocks_and_copy_the_partial_one(length: int, caching: bool, lag: int) -> None:
    harness = Harness(config(num_blocks=(33, 40), enable_prefix_caching=caching), lag)
    harness.add(request("r", list(range(length)), n=3, max_tokens=6, ignore_eos=True))
    harness.run()
    harness.check_finished()
    starts = [start for plan in harness.plans for start in plan.starts]
    assert [start.num_computed for start in starts] == [0, length - 1, length - 1]
    assert [start.seed for start in starts] == [completion_seed(0, index) for index in range(3)]
    full, rest = divmod(length - 1, 4)
    parent, *children = starts
    for child in children:
        for group in range(2):
            assert child.block_ids[group][:full] == parent.block_ids[group][:full]
            assert child.block_ids[group][full] != parent.block_ids[group][full]
    copies = [copy for plan in harness.plans for copy in plan.copies]
    assert len(copies) == (4 if rest else 0)
    # Only the last prompt token is computed again.
    assert sum(plan.num_tokens for plan in harness.plans) == length + 2 + 3 * 5


def test_siblings_draw_their_own_tokens() -> None:
    harness = Harness(config())
    harness.add(request("r", [1, 2, 3], n=4, max_tokens=8, ignore_eos=True))
    harness.run()
    assert len({tuple(harness.tokens("r", index)) for index in range(4)}) == 4


def test_best_of_runs_that_many() -> None:
    harness = Harness(config())
    harness.add(request("r", [1, 2, 3], n=1, best_of=3))
    harness.run()
    harness.check_finished()
    assert {index for _, index in harness.outputs} == {0, 1, 2}


def test_siblings_start_from_the_prompt_of_a_parent_that_ended_in_that_very_step() -> None:
    harness = Harness(config(max_num_seqs=1, enable_prefix_caching=False))
    harness.add(request("r", list(range(7)), n=3, max_tokens=1))
    harness.run()
    harness.check_finished()
    starts = [start for plan in harness.plans for start in plan.starts]
    assert [start.num_computed for start in starts] == [0, 6, 6]


def test_waiting_forks_give_up_their_blocks_to_those_who_run() -> None:
    # 4 usable blocks of 4; the prompt fills 3 partly, and each waiting sibling holds those.
    harness = Harness(config(max_num_seqs=1, num_blocks=(5,), enable_prefix_caching=False))
    harness.add(request("r", list(range(10)), n=3, max_tokens=6, ignore_eos=True))
    harness.run()
    harness.check_finished()
    assert harness.scheduler.stats().num_preemptions == 0


@pytest.mark.parametrize("length", [9, 10, 11])
def test_a_fork_whose_copy_does_not_fit_starts_like_any_other(length: int) -> None:
    """Source and copy of the partial block do not fit a pool of 3 blocks together."""
    harness = Harness(config(num_blocks=(4,), enable_prefix_caching=False))
    harness.add(request("r", list(range(length)), n=2, max_tokens=1))
    harness.run()
    harness.check_finished()
    starts = [start for plan in harness.plans for start in plan.starts]
    assert [start.num_computed for start in starts] == [0, length - 1 if length == 9 else 0]


def test_a_sibling_goes_on_when_the_parent_is_aborted() -> None:
    for steps in range(4):
        harness = Harness(config())
        harness.add(request("r", list(range(9)), n=3, max_tokens=6))
        for _ in range(steps):
            harness.step()
        (output,) = harness.abort("r", index=0)
        assert (output.index, output.finish_reason) == (0, "abort")
        harness.run()
        harness.check_finished()
        assert {harness.outputs["r", index][-1].finish_reason for index in (1, 2)} <= {"stop", "length"}


def test_a_completion_can_be_aborted_before_it_exists() -> None:
    harness = Harness(config())
    harness.add(request("r", list(range(9)), n=3))
    (output,) = harness.abort("r", index=1)
    assert (output.index, output.finish_reason) == (1, "abort")
    harness.run()
    harness.check_finished()
    assert not harness.tokens("r", 1)
    assert harness.tokens("r", 2)


def test_aborting_completion_after_completion_ends_the_request() -> None:
    harness = Harness(config())
    harness.add(request("r", list(range(9)), n=2))
    for index in range(2):
        assert [output.index for output in harness.abort("r", index)] == [index]
    assert not harness.scheduler.has_unfinished()
