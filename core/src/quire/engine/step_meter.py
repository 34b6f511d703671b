"""Counts what steps did: tokens, and time in a histogram. Knows plans and results, no requests."""

from __future__ import annotations

from bisect import bisect_left

from quire.engine.info import STEP_BUCKETS, EngineStats
from quire.plan import StepPlan, StepResult
from quire.scheduler import SchedulerStats


class StepMeter:
    """Running totals since the start.

    A slot that has sampled decodes from then on, one row a token; all its rows before, those of a
    resumed request's own output included, count as prompt.
    """

    def __init__(self) -> None:
        self._decoding: dict[int, int] = {}  # slot -> generation
        self._steps = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._seconds = 0.0
        self._histogram = [0] * (len(STEP_BUCKETS) + 1)

    def count(self, plan: StepPlan, result: StepResult, seconds: float) -> None:
        """Take in one step."""
        self._steps += 1
        self._seconds += seconds
        self._histogram[bisect_left(STEP_BUCKETS, seconds)] += 1
        for slot in plan.ended:
            self._decoding.pop(slot, None)
        decoding = self._decoding
        for slot, generation, count in zip(plan.slots, plan.generations, plan.counts, strict=True):
            if decoding.get(slot) != generation:
                self._prompt_tokens += count
        for outcome in result.slots:
            if outcome.token_ids:
                decoding[outcome.slot] = outcome.generation
                self._generation_tokens += len(outcome.token_ids)

    def stats(self, scheduler: SchedulerStats) -> EngineStats:
        """The totals beside the scheduler's figures."""
        return EngineStats(
            scheduler=scheduler,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            step_seconds=self._seconds,
            step_histogram=tuple(self._histogram),
        )
