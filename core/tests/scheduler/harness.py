"""A driver of a scheduler and a fake worker that checks all books after each step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from zlib import crc32

from quire.errors import EngineError
from quire.plan import StepPlan, StepResult
from quire.request import EngineRequest, StepOutput
from quire.sampling_params import SamplingParams
from quire.scheduler import Scheduler, SchedulerConfig
from quire.scheduler.state import Sequence, completion_seed, num_completions
from quire.testing.drafting import always_draft

from .beam_reference import searched
from .fake_model import next_token
from .fake_worker import FakeExecutor


def config(**changes: object) -> SchedulerConfig:
    """A small configuration with room to spare."""
    values: dict[str, object] = {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        "max_model_len": 64,
        "block_size": 4,
        "num_blocks": (33,),
        "windows": (),
        **changes,
    }
    return SchedulerConfig(**values)  # type: ignore[arg-type]  # the tests name the fields


def request(
    request_id: str, prompt: list[int], *, max_tokens: int = 8, seed: int = 0, **changes: object
) -> EngineRequest:
    """A request; keywords that `EngineRequest` has go there, all others to its `SamplingParams`."""
    fields = {"priority", "cache_salt", "adapter", "eos_token_ids", "grammar", "thinking"}
    top = {name: value for name, value in changes.items() if name in fields}
    sampling = {name: value for name, value in changes.items() if name not in fields}
    if isinstance(least := sampling.get("min_tokens"), int):
        sampling["min_tokens"] = min(least, max_tokens)
    params = SamplingParams(max_tokens=max_tokens, **sampling)  # type: ignore[arg-type]
    return EngineRequest(
        request_id=request_id,
        prompt_ids=prompt,
        params=params,
        seed=seed,
        **top,  # type: ignore[arg-type]
    )


def pool_room(settings: SchedulerConfig) -> int:
    """Tokens of the longest sequence that its pools can serve, by trying every place of every window."""
    size, rooms = settings.block_size, [settings.max_model_len]
    for usable, window in settings.groups:
        seen = range(settings.max_model_len)
        most = max(p // size - max(0, p - (window or p + 1) + 1) // size + 1 for p in seen)
        if window is None or most > usable:
            rooms.append(usable * size)
    return min(rooms)


def alone(asked: EngineRequest, index: int, settings: SchedulerConfig) -> tuple[list[int], str, int | None]:
    """What a completion must be, by the words of `SamplingParams`: output ids, finish and stop reason."""
    params, prompt = asked.params, asked.prompt_ids
    seed = completion_seed(asked.seed, index)
    prefix = crc32((asked.adapter or "").encode())
    for token in prompt:
        prefix = hash((prefix, token))
    room = pool_room(settings) + 1
    output: list[int] = []
    while True:
        token = next_token(seed, prefix, len(prompt) + len(output))
        prefix = hash((prefix, token))
        output.append(token)
        if len(output) >= params.min_tokens:
            if token in asked.eos_token_ids and not params.ignore_eos:
                return output, "stop", None
            if token in (params.stop_token_ids or ()):
                return output, "stop", token
        if len(output) == params.max_tokens or len(prompt) + len(output) in (room, settings.max_model_len):
            return output, "length", None


class Harness:
    """A scheduler, a fake worker, and a ledger of what came out; `lag` steps lie between plan and result."""

    def __init__(
        self, settings: SchedulerConfig, lag: int = 0, wrong: Callable[[int], bool] = lambda _: False
    ) -> None:
        self.settings = settings
        self.lag = lag
        self.now = 0.0
        self.scheduler = Scheduler(settings, clock=lambda: self.now)
        always_draft(self.scheduler, settings.num_speculative_tokens, lambda _: self.asking)
        self.requests: dict[str, EngineRequest] = {}
        self.worker = FakeExecutor(
            settings.block_size,
            len(settings.num_blocks),
            lambda name: self.requests[name].adapter,
            wrong,
            settings.windows,
        )
        self.under_way: list[tuple[StepPlan, StepResult]] = []
        self.outputs: dict[tuple[str, int], list[StepOutput]] = defaultdict(list)
        self.plans: list[StepPlan] = []
        self.asking = True
        self._generations: dict[int, int] = defaultdict(int)
        self._reached: dict[Sequence, int] = {}  # lengths that were reached otherwise than by sampling

    def add(self, asked: EngineRequest) -> None:
        self.scheduler.add(asked)
        self.requests[asked.request_id] = asked

    def abort(self, request_id: str, index: int | None = None) -> list[StepOutput]:
        return self._record(self.scheduler.abort(request_id, index))

    def append(self, request_id: str, index: int, most: int, *, certain: bool = False) -> None:
        """Let a completion go on with up to `most` tokens that it would have sampled, if it may."""
        asked, done = self.requests[request_id], self.tokens(request_id, index)
        if not done:
            return
        tokens = alone(asked, index, self.settings)[0][len(done) : len(done) + most]
        if not tokens:
            return
        if (output := self.scheduler.append(request_id, index, tokens, certain=certain)) is not None:
            self._record([output])
            self._reach(request_id, index)
        self.check()

    def pause(self, request_id: str, index: int, after: int | None) -> None:
        """Have a completion wait at so many tokens of output; None for never."""
        self._reach(request_id, index)
        self.scheduler.pause(request_id, index, after)
        self.check()

    def live(self) -> list[tuple[str, int]]:
        """Completions that could be told how they go on."""
        roster = self.scheduler._roster
        return sorted(
            (sequence.state.request.request_id, sequence.index)
            for sequence in [*roster.running, *roster.waiting]
            if sequence.beam is None
        )

    def _reach(self, request_id: str, index: int) -> None:
        """A completion may have its present length, and all that is under way for it, whatever its limit."""
        if (sequence := self.scheduler._find(request_id, index)) is not None:
            seat = (sequence.slot, sequence.generation)
            drafts = sum(
                len(dict(plan.drafts).get(sequence.slot, ()))
                for plan, _ in self.under_way
                if seat in zip(plan.slots, plan.generations, strict=True)
            )
            self._reached[sequence] = len(sequence.token_ids) + sequence.num_pending + drafts

    def _lift(self) -> bool:
        """Let those that wait at their limit go on; whether there were any."""
        roster = self.scheduler._roster
        waiting = [one for one in [*roster.running, *roster.waiting] if one.pause is not None]
        stuck = [one for one in waiting if len(one.token_ids) >= one.limit]
        for sequence in stuck:
            sequence.pause = None
        return bool(stuck)

    def plan(self) -> StepPlan:
        """Plan and execute a step, without taking in its result."""
        live = self.scheduler.has_unfinished()
        while True:
            seated = {sequence: sequence.generation for sequence in self.scheduler._roster.running}
            try:
                plan = self.scheduler.schedule()
                break
            except EngineError:
                if not self._lift():  # else it is as it should be: nobody may go on
                    raise
        for sequence in self.scheduler._roster.running:
            assert seated.get(sequence, sequence.generation) == sequence.generation, "preempted for nothing"
        self.now += 1.0
        self._check_plan(plan)
        if live and not self.under_way:
            assert plan.num_tokens > 0, "live requests, and a step without work"
        self.under_way.append((plan, self.worker.execute(plan)))
        self.plans.append(plan)
        self.check()
        return plan

    def collect(self) -> list[StepOutput]:
        """Take in the oldest result."""
        plan, result = self.under_way.pop(0)
        self.worker.collect(plan)
        outputs = self._record(self.scheduler.update(plan, result))
        self.check()
        return outputs

    def step(self) -> list[StepOutput]:
        self.plan()
        return self.collect() if len(self.under_way) > self.lag else []

    def run(self, max_steps: int = 5000) -> None:
        """Until nothing is left."""
        for _ in range(max_steps):
            if not self.scheduler.has_unfinished():
                break
            self.step()
        assert not self.scheduler.has_unfinished(), f"unfinished after {max_steps} steps"
        while self.under_way:
            self.collect()
        self.plan()
        self.collect()
        assert not self.worker.slots, "a slot was never reported as ended"
        assert all(usage.used == 0 for usage in self.scheduler.stats().kv)

    def tokens(self, request_id: str, index: int = 0) -> list[int]:
        return [token for output in self.outputs[request_id, index] for token in output.token_ids]

    def check(self) -> None:
        """The books balance."""
        self.scheduler._kv.check()
        roster = self.scheduler._roster
        assert len(roster.running) <= self.settings.max_num_seqs
        for queue in (roster.running, roster.waiting):
            assert queue == sorted(queue, key=lambda sequence: sequence.rank)
        for sequence in roster.waiting:
            assert sequence.num_computed == 0 or self.scheduler._kv.has_table(sequence)
        for sequence in [*roster.running, *roster.waiting]:
            length = len(sequence.token_ids) + sequence.num_pending
            assert length <= max(sequence.limit, self._reached.get(sequence, 0)), "more than was allowed"

    def check_finished(self) -> None:
        """Every completion that was neither aborted nor failed is what it would have been alone."""
        for name, asked in self.requests.items():
            if asked.params.use_beam_search:
                self._check_beams(name, asked)
                continue
            for index in range(num_completions(asked)):
                outputs = self.outputs[name, index]
                assert [o.finish_reason for o in outputs[:-1]] == [None] * (len(outputs) - 1)
                last = outputs[-1]
                tokens, reason, stop = alone(asked, index, self.settings)
                if last.finish_reason in ("abort", "error"):
                    assert self.tokens(name, index) == tokens[: len(self.tokens(name, index))]
                    continue
                assert (self.tokens(name, index), last.finish_reason, last.stop_reason) == (
                    tokens,
                    reason,
                    stop,
                )
                for output in outputs:
                    if output.logprobs is not None:  # nobody computes any for what is appended
                        assert [entry.token_ids[0] for entry in output.logprobs] == output.token_ids
                self._check_prompt_logprobs(asked, index)

    def _check_beams(self, name: str, asked: EngineRequest) -> None:
        """All completions of a beam search come at once, and are those that it finds alone."""
        found = searched(asked, pool_room(self.settings) + 1, self.settings.max_model_len)
        assert len(found) == asked.params.n
        ends = [self.outputs[name, index][-1] for index in range(asked.params.n)]
        given = {index for (request_id, index), some in self.outputs.items() if request_id == name and some}
        assert given == set(range(len(ends)))
        if ends[0].finish_reason in ("abort", "error"):
            assert all(end.finish_reason == ends[0].finish_reason and not end.token_ids for end in ends)
            return
        for index, (end, (tokens, reason, stop, total)) in enumerate(zip(ends, found, strict=True)):
            assert (end.token_ids, end.finish_reason, end.stop_reason) == (tokens, reason, stop)
            assert end.logprobs is not None
            assert [entry.token_ids[0] for entry in end.logprobs] == tokens
            assert sum(entry.logprobs[0] for entry in end.logprobs) == total
            assert self.tokens(name, index) == tokens
            self._check_prompt_logprobs(asked, index)

    def _check_prompt_logprobs(self, asked: EngineRequest, index: int) -> None:
        entries = [
            e for output in self.outputs[asked.request_id, index] for e in output.prompt_logprobs or ()
        ]
        wanted = asked.params.prompt_logprobs is not None and index == 0
        positions = range(1, len(asked.prompt_ids)) if wanted else range(0)
        assert [-entry.logprobs[0] for entry in entries] == list(positions)

    def _check_plan(self, plan: StepPlan) -> None:
        """Bounds, and: nobody writes to an indexed block, nor to one that another has accepted tokens in."""
        assert plan.num_tokens <= self.settings.max_num_batched_tokens
        for start in plan.starts:
            assert start.generation == self._generations[start.slot] + 1
            self._generations[start.slot] = start.generation
        kv, roster = self.scheduler._kv, self.scheduler._roster
        seated = {sequence.slot: sequence for sequence in roster.running}
        if plan.starts:
            last = seated[plan.starts[-1].slot]
            for sequence in roster.running:
                behind = sequence.rank < last.rank and sequence.slot not in plan.slots
                assert not (behind and sequence.num_missing), "a start took what one before it lacked"
            if last.num_preemptions:
                room = min(usage.free + usage.cached for usage in kv.usage())
                assert room >= len(roster.running) - 1, "resumed without room to grow for the others"
        size = self.settings.block_size
        written = defaultdict(set)
        for slot, count in zip(plan.slots, plan.counts, strict=True):
            sequence = seated[slot]
            blocks = range((sequence.num_computed - count) // size, (sequence.num_computed - 1) // size + 1)
            for group, table in enumerate(kv.block_table(sequence)):
                for block in blocks:
                    assert not kv._groups[group].pool.is_indexed(table[block])
                    written[group, table[block]].add(slot)
        for group, block in written:
            assert len(written[group, block]) == 1, "two sequences write to one block"
        for sequence in [*roster.running, *roster.waiting]:
            if kv.has_table(sequence):
                full = sequence.num_confirmed // size
                for group, table in enumerate(kv.block_table(sequence)):
                    for block in table[:full]:
                        assert written.get((group, block), {sequence.slot}) == {sequence.slot}

    def _record(self, outputs: list[StepOutput]) -> list[StepOutput]:
        for output in outputs:
            self.outputs[output.request_id, output.index].append(output)
        return outputs
