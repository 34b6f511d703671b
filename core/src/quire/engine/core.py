"""The engine's loop: schedule, execute, update. The rest of the house hangs on these three lines."""

from __future__ import annotations

import time

from quire.engine.info import EngineStats
from quire.engine.step_meter import StepMeter
from quire.executors.in_process import Executor
from quire.request import EngineRequest, StepOutput
from quire.scheduler import Scheduler


class EngineCore:
    """Owns the scheduler and the executor. Knows token ids, and no text."""

    def __init__(self, scheduler: Scheduler, executor: Executor) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self._meter = StepMeter()

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
        """Run one step of whoever is due."""
        start = time.perf_counter()
        plan = self.scheduler.schedule()
        result = self.executor.execute(plan)
        self._meter.count(plan, result, time.perf_counter() - start)
        return self.scheduler.update(plan, result)

    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""
        return self.scheduler.has_unfinished()

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes; running requests are not affected."""
        self.scheduler.reset_prefix_cache()

    def stats(self) -> EngineStats:
        """Counts of requests, blocks, tokens and steps."""
        return self._meter.stats(self.scheduler.stats())

    def shutdown(self) -> None:
        """Free the workers."""
        self.executor.shutdown()
