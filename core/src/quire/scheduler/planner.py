"""Continuous batching: who computes how many tokens in the next step.

There is no prefill and no decode: each sequence has a length and a computed count, and every step
lets `computed` catch up with the length within a token budget. Chunked prefill, prefix hits,
resumed requests and forks are then one case.

Knows the queues and the blocks. Must never know results, stopping rules, or how requests come and go.

Why nothing starves or livelocks: the order of sequences is total and fixed, a victim ranks after the
one it gives way to, waiting sequences start in order, and admission has checked that each fits the pool
alone. So the first in order always progresses, and then the next is first. Two kinds of sequences let
others pass: one whose prefix a running sequence is computing at the moment (whatever that computes, or
should it be preempted, the wait ends, and the sequence is still the first), and one at a length at which it
is to be told how it goes on, which whoever has it wait does before the next step.

Beams wait for each other, and hold blocks and a slot meanwhile. Those that do give way to whoever has use for
them as long as a beam of the same request has no slot, and to the beams of their request in any case. What
they have said is kept, so that of every search some beam is always the next, and nothing stands in its way.
"""

from __future__ import annotations

from collections.abc import Callable

from quire.kv import Allocation, KVManager, Prefix
from quire.plan import SlotStart
from quire.scheduler.config import SchedulerConfig
from quire.scheduler.policy import Policy
from quire.scheduler.roster import Roster
from quire.scheduler.state import Sequence
from quire.scheduler.step import StepDraft

__all__ = ["Planner"]

_WORTH_WAITING = 64
"""Tokens that somebody else has to be computing already for a sequence to wait for them: about as many as are
computed in the time that a further step costs."""


class Planner:
    """Fills steps from the roster."""

    def __init__(
        self,
        config: SchedulerConfig,
        kv: KVManager,
        roster: Roster,
        policy: Policy,
        clock: Callable[[], float],
    ) -> None:
        self.config = config
        self._kv = kv
        self._roster = roster
        self._policy = policy
        self._clock = clock

    def fill(self, step: StepDraft) -> None:
        """Give out the step's tokens, slots and blocks: running sequences first, then waiting ones."""
        self._schedule_running(step)
        self._schedule_waiting(step)

    def _schedule_running(self, step: StepDraft) -> None:
        """In order, each running sequence gets its missing tokens, as far as the budget goes."""
        bounded = self._kv.bounds_growth
        for sequence in tuple(self._roster.running):
            if step.budget == 0:
                return
            if sequence.slot < 0:  # preempted for one before it
                continue
            count = missing = sequence.num_missing
            if missing and sequence.drafts and self._ahead(sequence, missing, step):
                continue
            if bounded:
                count = min(count, self._kv.max_growth(sequence.num_confirmed, sequence.num_computed))
            if count > step.budget:
                count = step.budget
            if count <= 0:
                if missing:  # results under way make room first
                    step.lack(sequence)
                continue
            if self._kv.has_room(sequence, sequence.num_computed + count):  # nearly always
                step.give(sequence, count)
            elif (grant := self._grow(sequence, count, step)) is not None:
                step.run(sequence, count, grant)
            else:
                step.lack(sequence)

    def _ahead(self, sequence: Sequence, missing: int, step: StepDraft) -> bool:
        """Let a running sequence compute its missing tokens and its drafts; False if there is no room.

        Drafts are a gamble: nobody else has to go without a token or a block for them.
        """
        others = len(self._roster.running) - 1
        longest = sequence.limit - len(sequence.token_ids) - 1
        drafts = sequence.drafts[: max(0, min(longest, step.budget - missing - others))]
        count = missing + len(drafts)
        if not drafts or count > self._kv.max_growth(sequence.num_confirmed, sequence.num_computed):
            return False
        num_tokens = sequence.num_computed + count
        if self._kv.has_room(sequence, num_tokens):
            step.give(sequence, count)
        else:
            grant = self._kv.allocate(sequence, num_tokens, step=step.step_id, reserve=others)
            if grant is None:
                return False
            step.run(sequence, count, grant)
        step.drafts[sequence] = drafts
        return True

    def _schedule_waiting(self, step: StepDraft) -> None:
        """In order, waiting sequences start; the first that cannot ends the round.

        Those that wait for something else than room let the others pass: beams with their results, and those
        that are to be told how they go on.
        A victim, and whoever ranks after it, does not start in the same step. Nor does one that shares a
        prefix with a sequence that is computing it: requests that come together compute it once.
        """
        waiting, place = self._roster.waiting, 0
        coming = self._coming()
        while place < len(waiting) and step.admits(sequence := waiting[place]):
            if not sequence.num_missing or self._shares(sequence, coming):
                place += 1
            elif self._start(sequence, step):
                coming.update(self._to_commit(sequence))
            else:
                return

    def _coming(self) -> set[bytes]:
        """Digests of the blocks that running sequences have yet to compute, or are computing."""
        if not self.config.enable_prefix_caching or not self._roster.waiting:
            return set()
        return {digest for sequence in self._roster.running for digest in self._to_commit(sequence)}

    def _to_commit(self, sequence: Sequence) -> list[bytes]:
        """Digests of a sequence's full blocks that will be found in the index later than now."""
        size = self.config.block_size
        blocks = range(sequence.num_confirmed // size, len(sequence.token_ids) // size)
        return [sequence.chain.digest(block) for block in blocks]

    def _shares(self, sequence: Sequence, coming: set[bytes]) -> bool:
        """Whether what follows a waiting sequence's cached prefix is being computed by another."""
        if not coming or (prefix := self._find_prefix(sequence)) is None:
            return False
        size = self.config.block_size
        first, last = prefix.num_tokens // size, prefix.num_queried // size
        block = first
        while block < last and sequence.chain.digest(block) in coming:
            block += 1
        return (block - first) * size >= _WORTH_WAITING

    def _grow(self, sequence: Sequence, count: int, step: StepDraft) -> Allocation | None:
        """Blocks for `count` more tokens of a running sequence, at the cost of those after it."""
        num_tokens = sequence.num_computed + count
        while (grant := self._kv.allocate(sequence, num_tokens, step=step.step_id)) is None:
            if not self._reclaim(sequence, step):
                return None
        return grant

    def _start(self, sequence: Sequence, step: StepDraft) -> bool:
        """Seat a waiting sequence, with blocks for all of its tokens; False if it has to wait.

        Where a window bounds what it needs at a time, it gets those of its first step: blocks that leave
        the window make up for most of those it takes later. (To give each a window and a step from its start
        saves few preemptions, and makes others wait.)

        One that was preempted leaves a block for each running sequence to grow into, lest the same
        happen again at once.
        """
        reserve = len(self._roster.running) if sequence.num_preemptions else 0
        length = len(sequence.token_ids)
        while True:
            prefix = self._find_prefix(sequence)
            computed = prefix.num_tokens if prefix else sequence.num_computed
            count = self._first_count(length - computed, self._kv.max_growth(computed, computed), step)
            if count == 0:
                return False
            if self._roster.has_free_slot:
                grant = self._kv.allocate(
                    sequence,
                    computed + count,
                    step=step.step_id,
                    ahead=length,
                    prefix=prefix,
                    reserve=reserve,
                )
                if grant is not None:
                    self._seat(sequence, prefix)
                    step.start(sequence, count, grant, self._slot_start(sequence))
                    return True
            if not self._reclaim(sequence, step):
                return False
            reserve = min(reserve, len(self._roster.running))

    def _find_prefix(self, sequence: Sequence) -> Prefix | None:
        """The cached prefix to start from; None for a fork, which has its blocks.

        One token at least is computed. So are the positions whose log probabilities are still to be
        reported: that of position p comes from the logits at p - 1.
        """
        if self._kv.has_table(sequence):
            return None
        wanted = sequence.prompt_logprobs_from
        limit = len(sequence.token_ids) if wanted is None else wanted
        return self._kv.find_prefix(sequence.chain, limit - 1)

    def _first_count(self, missing: int, room: int, step: StepDraft) -> int:
        """Tokens a sequence computes in its first step; 0 if it should wait for a step with more room.

        Without chunked prefill it is all or nothing, except for a resumed sequence that has outgrown
        the whole budget, or the `room` in the pools: it could not run at all.
        """
        possible = min(self.config.max_num_batched_tokens, room)
        whole = not self.config.enable_chunked_prefill and missing <= possible
        return 0 if whole and missing > step.budget else min(missing, step.budget, room)

    def _seat(self, sequence: Sequence, prefix: Prefix | None) -> None:
        """Move a waiting sequence into a slot, its cached prefix counted as computed."""
        if prefix is not None:
            sequence.num_computed = sequence.num_confirmed = prefix.num_tokens
        if sequence.scheduled_time is None:
            sequence.scheduled_time = self._clock()
            if prefix is not None:
                sequence.num_cached_tokens = prefix.num_tokens
        self._roster.seat(sequence)

    def _slot_start(self, sequence: Sequence) -> SlotStart:
        """What the worker has to know of a sequence that takes its slot."""
        return SlotStart(
            slot=sequence.slot,
            generation=sequence.generation,
            request_id=sequence.state.request.request_id,
            params=sequence.state.request.params,
            seed=sequence.seed,
            token_ids=list(sequence.token_ids),
            num_prompt=sequence.num_prompt,
            num_computed=sequence.num_computed,
            block_ids=self._kv.block_table(sequence),
            prompt_logprobs_from=sequence.prompt_logprobs_from,
            index=sequence.index,
            masked=sequence.state.request.grammar is not None,
        )

    def _reclaim(self, claimant: Sequence, step: StepDraft) -> bool:
        """Take blocks, or a slot, from somebody for `claimant`.

        Forks that wait with blocks give way first, but not to a sequence that may as well wait for a
        running one to end; then beams that can only wait.

        Returns:
            False if there is nobody to take them from; the claimant has to wait.
        """
        running = self._roster.running
        if (claimant.slot >= 0 or not running) and self._roster.drop_fork():
            return True
        victim = next((one for one in reversed(running) if self._only_waits(one, claimant)), None)
        if victim is None:
            victim = self._policy.victim(running, claimant) if running else None
            if victim is None:
                return False
            step.withdraw(victim)
        self._roster.preempt(victim)
        return True

    @staticmethod
    def _only_waits(sequence: Sequence, claimant: Sequence) -> bool:
        """Whether a running sequence is a beam that waits for one without a slot, or for the claimant."""
        return sequence.idle and any(
            one is claimant or (one.slot < 0 and not one.idle) for one in sequence.state.sequences
        )
