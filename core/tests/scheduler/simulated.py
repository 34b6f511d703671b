"""Engines whose scheduler is the real one and whose worker is a curve: how long a step of so many rows takes.

With noise, and a number for how often a draft is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

from quire.plan import SlotResult, StepPlan
from quire.plan import StepResult as Result
from quire.request import EngineRequest
from quire.sampling_params import SamplingParams
from quire.scheduler import Scheduler
from quire.scheduler.drafting import Drafting

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
        run = Run(self, [self.right] * batch, length, drafting, random.Random(seed))
        total, tokens = 0.0, 0
        for step in range(steps + skip):
            time, count = run.step()
            if step >= skip:
                total += time
                tokens += count
        return total / tokens

    def closed(
        self, right: Many[float], tokens: int, choose: random.Random, drafting: Drafting | None = None
    ) -> float:
        """Time until the last one of some requests has so many tokens.

        Args:
            right: of each request, in place of the engine's.
            tokens: of each.
            choose: chance, for one round after the other.
            drafting: goes on from round to round.
        """
        run = Run(self, right, tokens + 1, drafting, choose)
        total = 0.0
        while run.scheduler.has_unfinished():
            total += run.step()[0]
        return total


class Run:
    """Some requests in an engine."""

    def __init__(
        self,
        engine: Engine,
        right: Many[float],
        length: int,
        drafting: Drafting | None,
        choose: random.Random,
    ) -> None:
        batch = len(right)
        self.engine, self.right, self.choose = engine, right, choose
        self.scheduler = Scheduler(
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
            self.scheduler._drafting = drafting
        for number in range(batch):
            params = SamplingParams(max_tokens=length - 1, ignore_eos=True)
            request = EngineRequest(request_id=str(number), prompt_ids=[2], params=params, seed=number)
            self.scheduler.add(request)
        self.seats: dict[int, float] = {}
        self.asked: set[int] = set()

    def step(self) -> tuple[float, int]:
        """Milliseconds of a step, and the tokens that came of it."""
        engine, plan = self.engine, self.scheduler.schedule()
        self.seats |= {start.slot: self.right[int(start.request_id)] for start in plan.starts}
        result = self._execute(plan, self.seats)
        time = engine.curve(plan.num_tokens, bool(plan.drafts))
        time += engine.proposing * sum(k for _, k in plan.propose)
        time += engine.catching_up * len({slot for slot, _ in plan.propose} - self.asked)
        self.asked = {slot for slot, _ in plan.propose}
        time *= 1 + engine.noise * self.choose.uniform(-1, 1)
        self.scheduler.update(plan, result, time / 1000)
        return time, sum(len(answer.token_ids) for answer in result.slots)

    def _execute(self, plan: StepPlan, chance: Mapping[int, float]) -> Result:
        drafts, propose, choose = dict(plan.drafts), dict(plan.propose), self.choose
        slots = []
        for slot, generation in zip(plan.slots, plan.generations, strict=True):
            right = 0
            ahead = drafts.get(slot, [])
            while right < len(ahead) and choose.random() < chance[slot]:
                right += 1
            asked = propose.get(slot, 0) if choose.random() < self.engine.found else 0
            slots.append(SlotResult(slot, generation, [1] * (right + 1), draft_ids=[1] * asked))
        return Result(plan.step_id, slots)
