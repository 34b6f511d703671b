"""Speculation in simulated engines never costs more than 3%, and finds nearly the best length where it pays.

The scheduler is the real one. Only the worker is not: how long a step takes is a curve over its rows, with
noise, and how often a draft is right a number.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from quire.plan import SlotResult, StepPlan
from quire.plan import StepResult as Result
from quire.request import EngineRequest
from quire.sampling import SamplingParams
from quire.scheduler import Scheduler
from quire.scheduler.drafting import Drafting
from quire.scheduler.state import Sequence

from .harness import config

AHEAD = 5
Curve = Callable[[int, bool], float]
CURVES: dict[str, Curve] = {
    "memory": lambda rows, drafts: 20 + 0.05 * rows,
    "compute": lambda rows, drafts: 1.0 + 1.0 * rows,
    "roofline": lambda rows, drafts: 2 + max(18.0, 1.0 * rows),
    "tiles": lambda rows, drafts: 5 + 4.0 * -(-rows // 8),
    "uncaptured": lambda rows, drafts: 10 + 0.1 * rows + 6.0 * drafts,
}


class Fixed(Drafting):
    """Always asks for as many."""

    def __init__(self, count: int) -> None:
        super().__init__(AHEAD)
        self._count = count

    def ask(self, sequences: list[Sequence]) -> list[int]:  # type: ignore[override]
        return [min(self._count, self._bound(sequence)) for sequence in sequences]


@dataclass
class Engine:
    """A simulated engine.

    Attributes:
        curve: milliseconds of a step over its rows, and whether drafts are among them.
        right: probability that a draft is right.
        found: probability that an ask is answered.
        noise: of a step's time, as a share of it.
        proposing: milliseconds per token proposed.
        catching_up: milliseconds when a sequence that is asked was not asked in the step before.
    """

    curve: Curve
    right: float
    found: float = 1.0
    noise: float = 0.0
    proposing: float = 0.0
    catching_up: float = 0.0

    def milliseconds(
        self, batch: int, steps: int, drafting: Drafting | None = None, seed: int = 0, skip: int = 0
    ) -> float:
        """Time per token of `batch` requests that never end, over some steps but for the first `skip`."""
        length = (steps + skip) * (AHEAD + 1) + 9
        scheduler = Scheduler(
            config(
                max_num_seqs=batch,
                max_num_batched_tokens=8 * batch,
                max_model_len=length,
                block_size=64,
                num_blocks=(batch * (length // 64 + 2) + 9,),
                enable_prefix_caching=False,
                num_speculative_tokens=0 if drafting is None else AHEAD,
            ),
            clock=lambda: 0.0,
        )
        if drafting is not None:
            scheduler._drafting = drafting
        choose, total, tokens = random.Random(seed), 0.0, 0
        for number in range(batch):
            params = SamplingParams(max_tokens=length - 1, ignore_eos=True)
            scheduler.add(EngineRequest(request_id=str(number), prompt_ids=[2], params=params, seed=number))
        asked: set[int] = set()
        for step in range(steps + skip):
            plan = scheduler.schedule()
            result = self.execute(plan, choose)
            time = self.curve(plan.num_tokens, bool(plan.drafts))
            time += self.proposing * sum(k for _, k in plan.propose)
            time += self.catching_up * len({slot for slot, _ in plan.propose} - asked)
            asked = {slot for slot, _ in plan.propose}
            time *= 1 + self.noise * choose.uniform(-1, 1)
            if step >= skip:
                total += time
                tokens += sum(len(answer.token_ids) for answer in result.slots)
            scheduler.update(plan, result, time / 1000)
        return total / tokens

    def execute(self, plan: StepPlan, choose: random.Random) -> Result:
        drafts, propose = dict(plan.drafts), dict(plan.propose)
        slots = []
        for slot, generation in zip(plan.slots, plan.generations, strict=True):
            right = 0
            ahead = drafts.get(slot, [])
            while right < len(ahead) and choose.random() < self.right:
                right += 1
            asked = propose.get(slot, 0) if choose.random() < self.found else 0
            slots.append(SlotResult(slot, generation, [1] * (right + 1), draft_ids=[1] * asked))
        return Result(plan.step_id, slots)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("right", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("batch", [1, 4, 16, 32])
def test_it_never_costs_more_than_three_percent(curve: str, right: float, batch: int) -> None:
    """From an engine's first step on, with noise, with a proposer that takes time and is often silent."""
    engine = Engine(CURVES[curve], right, found=0.8, noise=0.1, proposing=0.1)
    plain = engine.milliseconds(batch, 300)
    assert engine.milliseconds(batch, 300, Drafting(AHEAD)) < 1.03 * plain


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
