"""Whether steps overlap or not, outputs are the same, with forms, budgets of thinking and preemption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.core import EngineCore
from quire.engine.thinking_runner import ThinkingRunner
from quire.plan import SlotResult, SlotStart, StepPlan, StepResult, TokenLogprobs, TokenMasks
from quire.request import CompiledGrammar, EngineRequest, StepOutput, ThinkingBudget
from quire.sampling_params import SamplingParams
from quire.scheduler import Scheduler, SchedulerConfig

from .grammars.tries import END, Words, runner_of
from .played_thinking import bracket_reader

OPEN, CLOSE = map(ord, "()")
LETTERS = [OPEN, CLOSE, *map(ord, "ab")]


@dataclass(slots=True)
class Seat:
    start: SlotStart
    token_ids: list[int]
    computed: int


@dataclass(slots=True)
class UnderWay:
    plan: StepPlan
    samples: list[int]
    results: dict[int, SlotResult] = field(default_factory=dict)


class PlayedExecutor:
    """Draws by the tokens before, among those that are legal, when it is told which these are."""

    stepping: AbstractContextManager[object] = nullcontext()

    def __init__(self, overlaps: bool) -> None:
        self.overlaps = overlaps
        self._seats: dict[int, Seat] = {}
        self._steps: dict[int, UnderWay] = {}

    def submit(self, plan: StepPlan) -> None:
        assert len(self._steps) <= self.overlaps
        for slot in plan.ended:
            del self._seats[slot]
        for start in plan.starts:
            self._seats[start.slot] = Seat(start, list(start.token_ids), start.num_computed)
        for slot, position, ids in plan.appended:
            known = self._seats[slot].token_ids
            assert known[position:] == ids[: len(known) - position]
            known[position:] = ids
        samples = []
        for slot, count in zip(plan.slots, plan.counts, strict=True):
            seat = self._seats[slot]
            seat.computed += count
            assert seat.computed <= len(seat.token_ids)
            if seat.computed == len(seat.token_ids):
                samples.append(slot)
        self._steps[plan.step_id] = UnderWay(plan, samples)

    def sample(self, step_id: int, masks: TokenMasks | None = None) -> None:
        step = self._steps[step_id]
        rows = {} if masks is None else dict(zip(masks.slots, masks.bits, strict=True))
        generations = dict(zip(step.plan.slots, step.plan.generations, strict=True))
        for slot in step.plan.slots:
            seat, result = self._seats[slot], SlotResult(slot, generations[slot])
            if slot in step.samples:
                legal = LETTERS
                if slot in rows:  # else it has ended in the step before, or may say anything
                    bits = np.unpackbits(rows[slot].view(np.uint8), bitorder="little")
                    legal = np.flatnonzero(bits).tolist()
                token = legal[hash((seat.start.seed, *seat.token_ids)) % len(legal)]
                seat.token_ids.append(token)
                result.token_ids = [token]
                if seat.start.params.logprobs is not None:
                    result.logprobs = [TokenLogprobs([token], [-1.0], 1)]
            step.results[slot] = result

    def collect(self, step_id: int, legal: Any = None) -> StepResult:
        step = self._steps.pop(step_id)
        return StepResult(step_id, [step.results[slot] for slot in step.plan.slots])

    def shutdown(self) -> None:
        pass


@dataclass(frozen=True)
class Asked:
    """A request; `stops` is an end of its text at which its reader hangs up."""

    words: Words | None
    prompt: int
    max_tokens: int
    n: int
    logprobs: bool
    budget: int | None
    stops: int | None

    def request(self, name: str) -> EngineRequest:
        budget = self.budget
        return EngineRequest(
            request_id=name,
            prompt_ids=[97] * self.prompt,
            params=SamplingParams(
                max_tokens=self.max_tokens, n=self.n, logprobs=1 if self.logprobs else None
            ),
            seed=int(name),
            eos_token_ids=(END,),
            grammar=None if self.words is None else CompiledGrammar("tries", name.encode()),
            thinking=None
            if budget is None
            else ThinkingBudget(tokens=budget, open=False, end_ids=(CLOSE,), prompt=""),
        )


# Few beginnings and long ends: much is forced, and thinking begins and ends within it.
words = st.lists(
    st.text("(ab)", min_size=1, max_size=12).map(lambda text: tuple(map(ord, text))), min_size=1, max_size=4
).map(tuple)
asked = st.builds(
    Asked,
    words=words | st.none(),
    prompt=st.integers(1, 5),
    max_tokens=st.integers(1, 14),
    n=st.integers(1, 2),
    logprobs=st.booleans(),
    budget=st.none() | st.integers(0, 4),
    stops=st.none() | st.sampled_from(LETTERS),
)
Said = dict[tuple[str, int], list[StepOutput]]


def steps(core: EngineCore) -> Iterator[list[StepOutput]]:
    for _ in range(600):
        if not core.has_unfinished():
            return
        yield core.step()
    raise AssertionError("it does not come to an end")


def say(requests: list[Asked], config: SchedulerConfig, overlaps: bool) -> tuple[Said, list[int]]:
    """What each completion says, and the lengths of what was appended."""
    runner = runner_of({str(i): one.words for i, one in enumerate(requests) if one.words is not None})
    core = EngineCore(Scheduler(config), PlayedExecutor(overlaps), runner, ThinkingRunner(bracket_reader))
    said: Said = {(str(i), index): [] for i, one in enumerate(requests) for index in range(one.n)}
    runs: list[int] = []
    append = core.scheduler.append

    def counted(*arguments: Any, **more: Any) -> StepOutput | None:
        output = append(*arguments, **more)
        if output is not None:
            runs.append(len(output.token_ids))
        return output

    core.scheduler.append = counted  # type: ignore[method-assign]
    for number, one in enumerate(requests):
        core.add(one.request(str(number)))
    for outputs in steps(core):
        for output in outputs:
            key = (output.request_id, output.index)
            said[key].append(output)
            if requests[int(output.request_id)].stops in output.token_ids and not output.finish_reason:
                said[key] += core.abort(*key)
    stats = core.stats().scheduler
    core.shutdown()
    assert [pool.used for pool in stats.kv] == [0]
    assert stats.num_forced_tokens >= sum(runs) - len(runs) * overlaps
    assert overlaps or stats.num_forced_tokens == sum(runs)
    return said, runs


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(asked, min_size=1, max_size=4),
    seqs=st.integers(1, 4),
    budget=st.integers(1, 16),
    blocks=st.integers(11, 24),
    caching=st.booleans(),
)
def test_nothing_is_said_otherwise(
    requests: list[Asked], seqs: int, budget: int, blocks: int, caching: bool
) -> None:
    config = SchedulerConfig(
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=40,
        block_size=2,
        num_blocks=(blocks,),
        enable_prefix_caching=caching,
    )
    plain, plain_runs = say(requests, config, overlaps=False)
    found, runs = say(requests, config, overlaps=True)
    assert sorted(runs) == sorted(plain_runs) or any(one.stops for one in requests)
    for key, outputs in plain.items():
        stop = requests[int(key[0])].stops
        mine, theirs = ([t for one in said for t in one.token_ids] for said in (found[key], outputs))
        if stop in theirs:  # what comes behind is nobody's
            mine, theirs = (ids[: ids.index(stop) + 1] for ids in (mine, theirs))
        else:
            assert [one.finish_reason for one in found[key] if one.finish_reason] == [
                outputs[-1].finish_reason
            ]
        assert mine == theirs
