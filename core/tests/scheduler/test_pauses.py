"""Sequences that wait, at a given length, to be told how they go on."""

from __future__ import annotations

import pytest

from quire.errors import EngineError
from quire.request import ThinkingBudget

from .harness import Harness, config, request


@pytest.mark.parametrize("drafts", [0, 3])
@pytest.mark.parametrize("lag", [0, 1])
def test_no_more_is_sampled_than_was_allowed(lag: int, drafts: int) -> None:
    harness = Harness(config(num_speculative_tokens=drafts), lag=lag)
    harness.add(request("r", [1, 2, 3], max_tokens=12, ignore_eos=True))
    harness.add(request("s", [7, 8], max_tokens=12, ignore_eos=True))
    harness.scheduler.pause("r", 0, 5)

    def told() -> int:
        return sum(len(output.token_ids) for output in harness.outputs["r", 0])

    while told() < 5:
        harness.step()
    for _ in range(2):  # the other one goes on
        harness.step()
    assert told() == 5
    harness.scheduler.pause("r", 0, 7)
    while told() < 7:
        harness.step()
    harness.append("r", 0, 2)
    harness.scheduler.pause("r", 0, None)
    harness.run()
    harness.check_finished()


def test_a_budget_is_a_pause_from_the_start_in_every_completion() -> None:
    harness = Harness(config())
    budget = ThinkingBudget(tokens=2, open=False, end_ids=(1,), prompt="")
    harness.add(request("r", [1, 2, 3], max_tokens=9, n=2, ignore_eos=True, thinking=budget))
    for _ in range(4):
        harness.step()
    for index in range(2):
        assert sum(len(output.token_ids) for output in harness.outputs["r", index]) == 3
    with pytest.raises(EngineError, match="No progress"):
        harness.scheduler.schedule()


def test_who_is_gone_is_not_paused() -> None:
    harness = Harness(config())
    harness.scheduler.pause("nobody", 0, 3)
    assert not harness.scheduler.has_unfinished()
