"""A pure-Python worker that follows plans to the letter, and a driver that checks all books after each step.

The worker models KV content: what is written at a position is a hash of the adapter and of all tokens up
to it, so reading the cache tells at once if a block holds anything but the KV of exactly that prefix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from quire.plan import SlotResult, SlotStart, StepPlan, StepResult, TokenLogprobs
from quire.request import EngineRequest, StepOutput
from quire.sampling import SamplingParams
from quire.scheduler import Scheduler, SchedulerConfig
from quire.scheduler.state import completion_seed, num_completions
from quire.testing.drafting import always_draft

from .beam_reference import searched
from .fake_model import VOCAB, log_probabilities, next_token


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
    fields = {"priority", "cache_salt", "adapter", "eos_token_ids", "thinking"}
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


@dataclass
class FakeSlot:
    start: SlotStart
    adapter: int
    token_ids: list[int]
    computed: int
    blocks: list[list[int]]
    hashes: list[int] = field(default_factory=list)

    def prefix_hash(self, position: int) -> int:
        """Hash of the tokens up to and including `position`."""
        while len(self.hashes) <= position:
            parent = self.hashes[-1] if self.hashes else self.adapter
            self.hashes.append(hash((parent, self.token_ids[len(self.hashes)])))
        return self.hashes[position]


class FakeExecutor:
    """Executes plans as plan.py says; `wrong` tells at which positions its proposals are mistaken."""

    def __init__(
        self,
        block_size: int,
        num_groups: int,
        adapter_of: Callable[[str], str | None] = lambda _: None,
        wrong: Callable[[int], bool] = lambda _: False,
        windows: tuple[int | None, ...] = (),
    ) -> None:
        self.block_size = block_size
        self.windows = windows or (None,) * num_groups
        self.slots: dict[int, FakeSlot] = {}
        self.kv: list[dict[tuple[int, int], int]] = [{} for _ in range(num_groups)]
        self.failing: set[str] = set()
        self.seen: set[tuple[int, int]] = set()
        self._adapter_of = adapter_of
        self._wrong = wrong

    def execute(self, plan: StepPlan) -> StepResult:
        for slot in plan.ended:
            del self.slots[slot]
        for start in plan.starts:
            self._seat(start)
        for slot, added in plan.new_blocks:
            assert all(start.slot != slot for start in plan.starts)
            for blocks, new in zip(self.slots[slot].blocks, added, strict=True):
                blocks.extend(new)
        for copy in plan.copies:
            kv = self.kv[copy.group]
            for offset in range(self.block_size):
                kv[copy.dst, offset] = kv.get((copy.src, offset), -1)
        assert len(set(plan.slots)) == len(plan.slots)
        for slot, position, ids in plan.appended:
            assert slot in plan.slots
            known = self.slots[slot].token_ids
            assert known[position:] == ids[: len(known) - position], "it was certain, and came otherwise"
            known[position:] = ids
        drafts, propose = dict(plan.drafts), dict(plan.propose)
        assert {*drafts, *propose} <= set(plan.slots)
        rows = zip(plan.slots, plan.generations, plan.counts, strict=True)
        return StepResult(
            plan.step_id,
            [self._compute(*row, drafts.get(row[0], []), propose.get(row[0], 0)) for row in rows],
        )

    def _seat(self, start: SlotStart) -> None:
        assert start.slot not in self.slots, "the slot is taken"
        assert (start.slot, start.generation) not in self.seen, "generations never repeat"
        self.seen.add((start.slot, start.generation))
        adapter = crc32((self._adapter_of(start.request_id) or "").encode())
        blocks = [list(ids) for ids in start.block_ids]
        self.slots[start.slot] = FakeSlot(start, adapter, list(start.token_ids), start.num_computed, blocks)

    def _compute(self, slot: int, generation: int, count: int, drafts: list[int], propose: int) -> SlotResult:
        seat = self.slots[slot]
        if seat.start.request_id in self.failing:
            return SlotResult(slot, generation, error="NaN")
        known = len(seat.token_ids)
        seat.token_ids += drafts
        first, seat.computed = seat.computed, seat.computed + count
        assert seat.start.generation == generation
        assert count >= 1
        assert seat.computed <= len(seat.token_ids)
        for kv, blocks, window in zip(self.kv, seat.blocks, self.windows, strict=True):
            for position in range(0 if window is None else max(0, first - window + 1), seat.computed):
                block, offset = divmod(position, self.block_size)
                assert blocks[block] != 0
                where = (blocks[block], offset)
                if position >= first:
                    kv[where] = seat.prefix_hash(position)
                assert kv.get(where) == seat.prefix_hash(position), "attention would read foreign KV"
        result = SlotResult(slot, generation)
        wanted = seat.start.prompt_logprobs_from
        if wanted is not None:
            last = min(seat.computed, seat.start.num_prompt - 1)
            result.prompt_logprobs = [
                TokenLogprobs([seat.token_ids[p]], [-float(p)], 1)
                for p in range(max(wanted, first + 1), last + 1)
            ]
        if seat.computed == len(seat.token_ids):
            for draft in [*drafts, None]:
                drawn = self._next(seat, known + len(result.token_ids))
                result.token_ids.append(drawn)
                if drawn != draft:
                    break
            self._settle(seat, known, result.token_ids)
            result.logprobs = [TokenLogprobs([t], [-1.0], 1) for t in result.token_ids]
            if seat.start.params.use_beam_search:
                result.logprobs = [self._likely(seat, known - 1)]
            known = len(seat.token_ids)
            for _ in range(propose):
                right = self._next(seat, len(seat.token_ids))
                guess = (right + self._wrong(len(seat.token_ids))) % VOCAB
                result.draft_ids.append(guess)
                seat.token_ids.append(guess)
            self._settle(seat, known, [])
        else:
            assert not drafts
            assert not propose
        return result

    @staticmethod
    def _likely(seat: FakeSlot, position: int) -> TokenLogprobs:
        """What may follow a position, most likely first, the drawn token before them."""
        values = log_probabilities(seat.prefix_hash(position))
        order = sorted(range(VOCAB), key=lambda token: -values[token])
        ids = [order[0], *order[: seat.start.params.logprobs]]
        return TokenLogprobs(ids, [values[token] for token in ids], 1)

    @classmethod
    def _next(cls, seat: FakeSlot, position: int) -> int:
        if seat.start.params.use_beam_search:
            return cls._likely(seat, position - 1).token_ids[0]
        return next_token(seat.start.seed, seat.prefix_hash(position - 1), position)

    @staticmethod
    def _settle(seat: FakeSlot, known: int, sampled: list[int]) -> None:
        """Forget what follows the known tokens, and append what was sampled; the last has no KV yet."""
        del seat.token_ids[known:]
        del seat.hashes[known:]
        seat.token_ids += sampled
        seat.computed = min(seat.computed, len(seat.token_ids) - 1)


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
        always_draft(self.scheduler, settings.num_speculative_tokens)
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
        self._generations: dict[int, int] = defaultdict(int)

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
        self.check()

    def plan(self) -> StepPlan:
        """Plan and execute a step, without taking in its result."""
        live = self.scheduler.has_unfinished()
        seated = {sequence: sequence.generation for sequence in self.scheduler._roster.running}
        plan = self.scheduler.schedule()
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
        outputs = self._record(self.scheduler.update(*self.under_way.pop(0)))
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
