"""What is appended behind a step under way, since it is certain what that step samples."""

from __future__ import annotations

import pytest

from .harness import Harness, alone, config, request


def under_way(**changes: object) -> Harness:
    """A request with one token in, and its second under way."""
    harness = Harness(config(**changes), lag=1)
    harness.add(request("r", [1, 2, 3], max_tokens=12, ignore_eos=True))
    harness.plan()
    harness.plan()
    harness.collect()
    return harness


def test_they_cost_no_step_of_their_own() -> None:
    harness = under_way()
    harness.append("r", 0, 5, certain=True)
    assert [len(output.token_ids) for output in harness.outputs["r", 0]] == [1, 5]
    plan = harness.plan()
    assert plan.counts == [5], "the last known token of the step under way was computed there"
    assert [(position, len(ids)) for _, position, ids in plan.appended] == [(4, 5)]
    assert harness.collect() == [], "it is known already"
    assert harness.scheduler.stats().num_forced_tokens == 4  # one of them was sampled
    harness.run()
    harness.check_finished()
    assert len(harness.plans) == 3 + 6 + 1  # 12 tokens, 4 of them in the step of another


def test_without_being_certain_nothing_is_appended() -> None:
    harness = under_way()
    harness.append("r", 0, 5)
    assert harness.scheduler.stats().num_forced_tokens == 0


def test_where_drafts_are_to_follow_nothing_is() -> None:
    harness = under_way(num_speculative_tokens=2)
    assert harness.plan().drafts
    (sequence,) = harness.scheduler._roster.running
    assert sequence.speculating
    harness.append("r", 0, 5, certain=True)
    assert harness.scheduler.stats().num_forced_tokens == 0
    harness.run()
    harness.check_finished()


def test_an_end_among_them_leaves_the_step_to_nobody() -> None:
    harness = under_way()
    harness.append("r", 0, 11, certain=True)
    assert not harness.scheduler.has_unfinished()
    harness.run()
    harness.check_finished()


def test_a_preempted_sequence_keeps_them() -> None:
    harness = under_way()
    harness.append("r", 0, 5, certain=True)
    (sequence,) = harness.scheduler._roster.running
    harness.scheduler._roster.preempt(sequence)
    harness.run()
    harness.check_finished()
    assert harness.outputs["r", 0][-1].num_preemptions == 1


@pytest.mark.parametrize("right", [True, False])
def test_a_worker_that_samples_another_token_fails_the_request(right: bool) -> None:
    harness = under_way()
    harness.append("r", 0, 5, certain=True)
    plan, result = harness.under_way[0]
    expected = alone(harness.requests["r"], 0, harness.settings)[0][1]
    assert result.slots[0].token_ids == [expected]
    if not right:
        result.slots[0].token_ids = [expected + 1]
    outputs = harness.scheduler.update(plan, result)
    assert [(one.finish_reason, one.error) for one in outputs] == (
        []
        if right
        else [("error", f"The worker sampled token {expected + 1} where another one alone was legal.")]
    )
