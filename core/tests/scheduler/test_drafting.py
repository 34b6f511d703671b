"""Speculation in simulated engines never costs more than 3%, and finds nearly the best length where it pays.

The scheduler is the real one. Only the worker is not (see `simulated`).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence as Many

import pytest

from quire.scheduler.drafting import Drafting
from quire.scheduler.laggards import Account
from quire.scheduler.state import Sequence

from .simulated import AHEAD, CURVES, Engine, Run


class Fixed(Drafting):
    """Always asks for as many."""

    def __init__(self, count: int) -> None:
        super().__init__(AHEAD)
        self._count = count

    def ask(self, sequences: Many[Sequence], *, full: bool = False) -> list[int]:
        return [min(self._count, self._bound(sequence)) for sequence in sequences]


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("right", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("batch", [1, 4, 16, 32])
def test_it_never_costs_more_than_three_percent(curve: str, right: float, batch: int) -> None:
    """From an engine's first step on, with noise, with a proposer that takes time and is often silent."""
    engine = Engine(CURVES[curve], right, found=0.8, noise=0.1, proposing=0.1)
    plain = engine.milliseconds(batch, 300)
    assert engine.milliseconds(batch, 300, Drafting(AHEAD)) < 1.03 * plain


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("right", [(0.2, 0.5), (0.1, 0.9)])
@pytest.mark.parametrize("batch", [4, 16])
def test_nor_a_batch_that_ends_with_its_slowest(curve: str, right: tuple[float, float], batch: int) -> None:
    """Drafts help some of its requests and not others, and nobody waits for the seats of those that end."""
    engine = Engine(CURVES[curve], 0.0, noise=0.05, proposing=0.2)
    chance = random.Random(batch)
    of_each = [chance.uniform(*right) for _ in range(batch)]
    drafting, plain, ours = Drafting(AHEAD), random.Random(1), random.Random(1)
    ratios = [
        engine.closed(of_each, 64, ours, drafting) / engine.closed(of_each, 64, plain) for _ in range(9)
    ]
    assert statistics.median(ratios) < 1.03


def test_what_helps_all_but_one_may_cost_that_one_a_little() -> None:
    """Not nothing: it has a part of what the others gain."""
    engine, of_each = Engine(CURVES["memory"], 0.0, noise=0.05), [0.9] * 7 + [0.0]
    drafting, choose = Drafting(AHEAD), random.Random(2)
    plain = engine.closed(of_each, 128, random.Random(2))
    times = [engine.closed(of_each, 128, choose, drafting) for _ in range(5)]
    stats = drafting.stats()
    assert stats.num_accepted_tokens > 0.5 * 5 * 7 * 128
    assert statistics.median(times) < 1.1 * plain


@pytest.mark.parametrize("seed", range(4))
def test_it_does_not_where_drafts_neither_pay_nor_cost(seed: int) -> None:
    """What a plain step takes is known to some hundredths: to be wrong there is to be wrong all the time."""
    engine = Engine(CURVES["roofline"], 0.8, found=0.8, noise=0.1, proposing=0.1)
    plain = engine.milliseconds(16, 300)
    assert engine.milliseconds(16, 300, Drafting(AHEAD), seed=seed) < 1.03 * plain


@pytest.mark.parametrize("curve", ["memory", "roofline", "tiles"])
@pytest.mark.parametrize("right", [0.8, 0.95])
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_it_comes_near_the_best_length(curve: str, right: float, batch: int) -> None:
    engine = Engine(CURVES[curve], right, noise=0.05)
    best = min(engine.milliseconds(batch, 200, Fixed(count), seed=1) for count in range(AHEAD + 1))
    assert engine.milliseconds(batch, 200, Drafting(AHEAD), skip=150) < 1.2 * best


@pytest.mark.parametrize(("right", "worth"), [(0.0, False), (0.5, True), (0.8, True)])
def test_what_catching_up_takes_is_not_what_the_next_ask_takes(right: float, worth: bool) -> None:
    """A draft model that was not asked for a while computes all of that first: here, for half a step."""
    engine = Engine(CURVES["memory"], right, noise=0.1, proposing=0.5, catching_up=10.0)
    plain, ours = engine.milliseconds(1, 400), engine.milliseconds(1, 400, Drafting(AHEAD))
    assert ours < 1.03 * plain
    if worth:
        best = min(engine.milliseconds(1, 400, Fixed(count), seed=1) for count in range(AHEAD + 1))
        assert ours < 1.2 * best


def test_drafts_that_fail_are_tried_ever_more_rarely() -> None:
    drafting, engine = Drafting(AHEAD), Engine(CURVES["roofline"], right=0.0)
    engine.milliseconds(4, 100, drafting)
    first = drafting.stats().num_draft_tokens
    assert 0 < first < 4 * 30
    engine.milliseconds(4, 400, drafting)
    assert drafting.stats().num_draft_tokens - first < 4 * 30
    assert drafting.stats().num_accepted_tokens == 0


def test_the_same_times_give_the_same_decisions() -> None:
    engine = Engine(CURVES["tiles"], right=0.7, noise=0.1)
    assert engine.milliseconds(3, 150, Drafting(AHEAD)) == engine.milliseconds(3, 150, Drafting(AHEAD))


def test_nobody_is_asked_before_a_step_has_been_timed() -> None:
    drafting = Drafting(AHEAD)
    engine = Engine(CURVES["memory"], right=1.0)
    engine.milliseconds(2, 2, drafting)
    assert drafting.stats().num_drafts == 0


def test_what_is_not_accepted_costs_no_more_than_the_allowance() -> None:
    """Proposing takes as long as three plain steps, which nothing but the steps' times can tell."""
    engine = Engine(CURVES["memory"], right=0.9, proposing=12.0)
    plain = engine.milliseconds(1, 400)
    assert engine.milliseconds(1, 400, Drafting(AHEAD)) < 1.03 * plain


def test_what_one_wins_while_it_runs_alone_is_nobodys_to_lose() -> None:
    """Its account has what drafts brought it only where it has what they cost, too."""
    run = Run(Engine(CURVES["memory"], 0.0), [0.9], 200, drafting := Drafting(AHEAD), random.Random(3))
    for _ in range(40):
        run.step()
    assert drafting.stats().num_accepted_tokens > 40
    (sequence,) = run.scheduler._roster.running
    assert sequence.account == Account()
