"""The engine's loop: schedule, submit, sample, collect, update. The rest of the house hangs on it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from quire.engine.grammars.runner import GrammarRunner
from quire.engine.info import EngineStats, GrammarStats
from quire.engine.step_meter import StepMeter
from quire.engine.thinking_runner import ThinkingRunner
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
        self,
        scheduler: Scheduler,
        executor: Executor,
        grammars: GrammarRunner | None = None,
        thinking: ThinkingRunner | None = None,
    ) -> None:
        """Nothing is queued.

        Args:
            scheduler: plans.
            executor: runs the plans.
            grammars: follows outputs that must have a form; without it there are none.
            thinking: follows outputs that may think so much and no more; without it there are none.
        """
        self.scheduler = scheduler
        self.executor = executor
        self.grammars = grammars
        self.thinking = thinking
        self._meter = StepMeter()
        self._begun: _Begun | None = None
        self._moved: dict[tuple[str, int], None] = {}  # completions that may have to go on in one way
        self._last_end = 0.0

    def add(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: it can never run.
        """
        if request.grammar is not None and self.grammars is None:
            raise InvalidRequestError("This engine follows no grammars.", field="structured_outputs")
        if request.thinking is not None and self.thinking is None:
            raise InvalidRequestError("This engine reads no thinking.", field="thinking_token_budget")
        self.scheduler.add(request)
        if self.grammars is not None:
            self.grammars.add(request)
        if self.thinking is not None:
            self.thinking.add(request)

    def abort(self, request_id: str, index: int | None = None) -> list[StepOutput]:
        """End a request, or one of its completions, now. Unknown ids are ignored: it may just have ended."""
        outputs = self.scheduler.abort(request_id, index)
        self._tell(outputs)
        return outputs

    def step(self) -> list[StepOutput]:
        """Begin a step of whoever is due. The news is of the step before, where the executor overlaps."""
        start = time.perf_counter()
        outputs = self._end_thinking()  # those that think no more from their first token on, and others
        self._tell(outputs)
        outputs += self._jump()
        plan = self.scheduler.schedule()
        with self.executor.stepping:
            self.executor.submit(plan)
            outputs += self._finish()
            # What the step before has drawn is known now: to the sampler, and to the grammars.
            self.executor.sample(plan.step_id, self._masks(plan))
            self._begun = _Begun(plan, start)
            if not (self.executor.overlaps and plan.slots):
                outputs += self._finish()
        # The step under way has its masks: where they leave one token, it is certain what it draws.
        return outputs + self._jump()

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
        self._tell(outputs)
        ended = self._end_thinking()
        self._tell(ended)
        return outputs + ended

    def _masks(self, plan: StepPlan) -> TokenMasks | None:
        """What the plan's slots may sample."""
        if self.grammars is None:
            return None
        self.grammars.seat(plan)
        return self.grammars.masks(plan)

    def _tell(self, outputs: list[StepOutput]) -> None:
        """Let those who follow outputs take in the news."""
        if self.thinking is not None:
            for (request_id, index), after in self.thinking.advance(outputs):
                self.scheduler.pause(request_id, index, after)
        if self.grammars is not None:
            self._moved |= dict.fromkeys(self.grammars.advance(outputs))

    def _jump(self) -> list[StepOutput]:
        """Append what nobody need draw, since a grammar leaves no choice: the news of it.

        A step under way may draw the first of it. That step has had its mask before those who follow outputs
        go on to what comes after.
        """
        if self.grammars is None or not self._moved:
            return []
        appended = [
            self.scheduler.append(request_id, index, ids, certain=True)
            for (request_id, index), ids in self.grammars.forced(self._moved)
        ]
        forced = [output for output in appended if output is not None]
        self._tell(forced)
        self._moved = {}  # all that is forced was offered
        return forced

    def _end_thinking(self) -> list[StepOutput]:
        """End the thinking of those who have spent their budget: the news of it.

        Where a form does not allow the end, the form is what counts.
        """
        if self.thinking is None:
            return []
        more = []
        for key, ids in self.thinking.due():
            if self.grammars is not None and not self.grammars.allows(key, ids):
                self.thinking.forget(key)
                self.scheduler.pause(*key, None)
            elif (output := self.scheduler.append(*key, ids)) is not None:
                self.thinking.ended(key)
                self.scheduler.pause(*key, None)
                more.append(output)
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
        ended = 0 if self.thinking is None else self.thinking.num_ended
        stats = self._meter.stats(self.scheduler.stats())
        return replace(stats, grammars=grammars, num_thinking_ended=ended)

    def shutdown(self) -> None:
        """Free the workers."""
        if self.grammars is not None:
            self.grammars.shutdown()
        self.executor.shutdown()
