"""A pure-Python worker that follows plans to the letter, and fails where a plan would have it read amiss.

It models KV content: what is written at a position is a hash of the adapter and of all tokens up to it, so
reading the cache tells at once if a block holds anything but the KV of exactly that prefix. Of the states
that a plan has it keep for a head it models the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from quire.plan import SlotResult, SlotStart, StepPlan, StepResult, TokenLogprobs

from .fake_model import VOCAB, log_probabilities, next_token


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
    """Executes plans as plan.py says; `wrong` tells at which positions its proposals are mistaken.

    Attributes:
        slots: the seats that are taken.
        kv: per group, by block and offset, what was written there.
        failing: requests whose every step fails.
        states: the same as `kv`, of the states that were kept, in the first group without a window.
        num_states: of them, those that were there for somebody who proposed.
    """

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
        self.states: dict[tuple[int, int], int] = {}
        self.num_states = 0
        self._of_states = next((group for group, size in enumerate(self.windows) if size is None), None)
        self._owners: dict[int, int] = defaultdict(int)  # by block, how many it has had
        self._left: dict[int, list[tuple[tuple[int, int], int, int]]] = {}
        self._seen: set[tuple[int, int]] = set()
        self._adapter_of = adapter_of
        self._wrong = wrong

    def execute(self, plan: StepPlan) -> StepResult:
        for slot in plan.ended:
            del self.slots[slot]
        for start in plan.starts:
            self._give(start.block_ids, start.num_computed // self.block_size)
            self._seat(start)
        for slot, added in plan.new_blocks:
            assert all(start.slot != slot for start in plan.starts)
            self._give(added, 0)
            for blocks, new in zip(self.slots[slot].blocks, added, strict=True):
                blocks.extend(new)
        ends = {
            (group, block): start.num_computed - place * self.block_size
            for start in plan.starts
            for group, blocks in enumerate(start.block_ids)
            for place, block in enumerate(blocks)
        }
        for copy in plan.copies:
            kv = self.kv[copy.group]
            end = ends[copy.group, copy.dst]
            assert copy.num_tokens == end
            for offset in range(self.block_size):
                kv[copy.dst, offset] = kv.get((copy.src, offset), -1)
                # Behind that lies what the other sequence says.
                if copy.group == self._of_states and offset < end and (copy.src, offset) in self.states:
                    self.states[copy.dst, offset] = self.states[copy.src, offset]
        assert len(set(plan.slots)) == len(plan.slots)
        for slot, position, ids in plan.appended:
            assert slot in plan.slots
            known = self.slots[slot].token_ids
            assert known[position:] == ids[: len(known) - position], "it was certain, and came otherwise"
            known[position:] = ids
        drafts, propose = dict(plan.drafts), dict(plan.propose)
        assert {*drafts, *propose} <= set(plan.slots)
        assert plan.keep_states or not (drafts or propose), "who proposes would not know the last tokens"
        self._left[plan.step_id] = []
        results = []
        for slot, generation, count in zip(plan.slots, plan.generations, plan.counts, strict=True):
            first = self.slots[slot].computed
            results.append(self._compute(slot, generation, count, drafts.get(slot, []), propose.get(slot, 0)))
            if plan.keep_states:
                self._left[plan.step_id] += self._leave(self.slots[slot], first)
        return StepResult(plan.step_id, results)

    def collect(self, plan: StepPlan) -> None:
        """A step's results are taken in: its states are kept, and read by whoever proposes."""
        for place, owner, content in self._left.pop(plan.step_id):
            if self._owners[place[0]] == owner:
                self.states[place] = content
        generations, group = dict(zip(plan.slots, plan.generations, strict=True)), self._of_states
        for slot, _ in plan.propose:
            seat = self.slots.get(slot)
            if seat is None or seat.start.generation != generations[slot] or group is None:
                continue
            for position in range(seat.computed):
                block, offset = divmod(position, self.block_size)
                found = self.states.get((seat.blocks[group][block], offset))
                assert found in (None, seat.prefix_hash(position)), "states of another prefix would be read"
                self.num_states += found is not None

    def _give(self, blocks: tuple[list[int], ...], kept: int) -> None:
        """Blocks change hands, but for the first ones, which are taken over with what they hold."""
        if self._of_states is None:
            return
        for block in blocks[self._of_states][kept:]:
            self._owners[block] += 1
            for offset in range(self.block_size):
                self.states.pop((block, offset), None)

    def _leave(self, seat: FakeSlot, first: int) -> list[tuple[tuple[int, int], int, int]]:
        """States of what a step has computed from a position on, rejected drafts left out."""
        if self._of_states is None:
            return []
        blocks, left = seat.blocks[self._of_states], []
        for position in range(first, seat.computed):
            block, offset = divmod(position, self.block_size)
            place = (blocks[block], offset)
            left.append((place, self._owners[place[0]], seat.prefix_hash(position)))
        return left

    def _seat(self, start: SlotStart) -> None:
        assert start.slot not in self.slots, "the slot is taken"
        assert (start.slot, start.generation) not in self._seen, "generations never repeat"
        self._seen.add((start.slot, start.generation))
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
