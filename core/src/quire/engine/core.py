"""The engine's loop: schedule, submit, sample, collect, update. The rest of the house hangs on it."""

from __future__ import annotations

import time
from typing import NamedTuple

from quire.engine.info import EngineStats
from quire.engine.step_meter import StepMeter
from quire.executors.in_process import Executor
from quire.plan import StepPlan
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

    def __init__(self, scheduler: Scheduler, executor: Executor) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self._meter = StepMeter()
        self._begun: _Begun | None = None
        self._last_end = 0.0

    def add(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: it can never run.
        """
        self.scheduler.add(request)

    def abort(self, request_id: str, index: int | None = None) -> list[StepOutput]:
        """End a request, or one of its completions, now. Unknown ids are ignored: it may just have ended."""
        return self.scheduler.abort(request_id, index)

    def step(self) -> list[StepOutput]:
        """Begin a step of whoever is due. The news is of the step before, where the executor overlaps."""
        start = time.perf_counter()
        plan = self.scheduler.schedule()
        with self.executor.stepping:
            self.executor.submit(plan)
            outputs = self._finish()
            self.executor.sample(plan.step_id)  # what the step before has drawn is known to the sampler now
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
        result = self.executor.collect(plan.step_id)
        now = time.perf_counter()
        seconds = now - max(start, self._last_end)
        self._meter.count(plan, result, seconds)
        self._last_end = now
        return self.scheduler.update(plan, result, seconds)

    def has_unfinished(self) -> bool:
        """Whether any request waits or runs, or a step's results are not in."""
        return self.scheduler.has_unfinished() or self._begun is not None

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes; running requests are not affected."""
        self.scheduler.reset_prefix_cache()

    def stats(self) -> EngineStats:
        """Counts of requests, blocks, tokens and steps."""
        return self._meter.stats(self.scheduler.stats())

    def shutdown(self) -> None:
        """Free the workers."""
        self.executor.shutdown()
