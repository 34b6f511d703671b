"""The engine's loop: schedule, submit, sample, collect, update. The rest of the house hangs on it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from quire.engine.grammar_runner import GrammarRunner
from quire.engine.info import EngineStats, GrammarStats
from quire.engine.step_meter import StepMeter
from quire.errors import InvalidRequestError
from quire.executors.in_process import Executor
from quire.plan import StepPlan, TokenMasks
from quire.request import EngineRequest, StepOutput
from quire.scheduler import Scheduler


class _Begun(NamedTuple):
    """A step whose results are not in.

    Attributes:
        plan: what it does.
        start: when it was planned, seconds.
    """

    plan: StepPlan
    start: float


class EngineCore:
    """Owns the scheduler and the executor. Knows token ids, and no text.

    Where the workers go on by themselves (a GPU), a step is planned and begun while the one before it
    runs, so that they need not wait for the host. A sequence that has ended in the step before is then
    computed once more in vain; what comes of it is discarded.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, grammars: GrammarRunner | None = None
    ) -> None:
        """Nothing is queued.

        Args:
            scheduler: plans.
            executor: runs the plans.
            grammars: follows outputs that must have a form; without it there are none.
        """
        self.scheduler = scheduler
        self.executor = executor
        self.grammars = grammars
        self._meter = StepMeter()
        self._begun: _Begun | None = None
        self._last_end = 0.0

    def add(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: it can never run.
        """
        if request.grammar is not None and self.grammars is None:
            raise InvalidRequestError("This engine follows no grammars.", field="structured_outputs")
        self.scheduler.add(request)
        if self.grammars is not None:
            self.grammars.add(request)

    def abort(self, request_id: str, index: int | None = None) -> list[StepOutput]:
        """End a request, or one of its completions, now. Unknown ids are ignored: it may just have ended."""
        outputs = self.scheduler.abort(request_id, index)
        if self.grammars is not None:
            self.grammars.advance(outputs)
        return outputs

    def step(self) -> list[StepOutput]:
        """Begin a step of whoever is due. The news is of the step before, where the executor overlaps."""
        start = time.perf_counter()
        plan = self.scheduler.schedule()
        with self.executor.stepping:
            self.executor.submit(plan)
            outputs = self._finish()
            # What the step before has drawn is known now: to the sampler, and to the grammars.
            self.executor.sample(plan.step_id, self._masks(plan))
            self._begun = _Begun(plan, start)
            if not (self.executor.overlaps and plan.slots):
                outputs += self._finish()
        return outputs

    def _finish(self) -> list[StepOutput]:
        """Take in the results of the step that has begun, if one has."""
        if self._begun is None:
            return []
        plan, start = self._begun
        self._begun = None
        result = self.executor.collect(plan.step_id, None if self.grammars is None else self.grammars.after)
        now = time.perf_counter()
        seconds = now - max(start, self._last_end)
        self._meter.count(plan, result, seconds)
        self._last_end = now
        outputs = self.scheduler.update(plan, result, seconds)
        return outputs + self._go_on(outputs)

    def _masks(self, plan: StepPlan) -> TokenMasks | None:
        """What the plan's slots may sample."""
        if self.grammars is None:
            return None
        self.grammars.seat(plan)
        return self.grammars.masks(plan)

    def _go_on(self, outputs: list[StepOutput]) -> list[StepOutput]:
        """Let grammars take in the news, and append what they leave no choice about: more news."""
        if self.grammars is None or not (moved := self.grammars.advance(outputs)):
            return []
        appended = [
            self.scheduler.append(request_id, index, ids)
            for (request_id, index), ids in self.grammars.forced(moved)
        ]
        more = [output for output in appended if output is not None]
        self.grammars.advance(more)
        return more

    def has_unfinished(self) -> bool:
        """Whether any request waits or runs, or a step's results are not in."""
        return self.scheduler.has_unfinished() or self._begun is not None

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes; running requests are not affected."""
        self.scheduler.reset_prefix_cache()

    def stats(self) -> EngineStats:
        """Counts of requests, blocks, tokens and steps."""
        grammars = GrammarStats() if self.grammars is None else self.grammars.stats()
        return replace(self._meter.stats(self.scheduler.stats()), grammars=grammars)

    def shutdown(self) -> None:
        """Free the workers."""
        if self.grammars is not None:
            self.grammars.shutdown()
        self.executor.shutdown()
