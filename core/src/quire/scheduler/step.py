"""A step while it is being planned, and while it is under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from quire.kv import Allocation
from quire.plan import BlockCopy, SlotResult, SlotStart, StepPlan
from quire.scheduler.drafting import Drafting
from quire.scheduler.state import Sequence

__all__ = ["Ride", "StepDraft", "explain", "surprises", "tell_time"]


class Ride(NamedTuple):
    """One sequence's part in a step under way. A tuple: a frozen dataclass takes four times as long to make.

    Attributes:
        sequence: who computes.
        slot, generation: its seat at that time; another seat since makes the result stale.
        num_tokens: computed, drafts among them.
        num_drafts: of these, at the end.
        samples: the step reaches the sequence's end and samples a token.
    """

    sequence: Sequence
    slot: int
    generation: int
    num_tokens: int
    num_drafts: int
    samples: bool


@dataclass(slots=True)
class StepDraft:
    """A plan in the making.

    Attributes:
        step_id: the plan's.
        budget: tokens that may still be given out.
        counts: tokens given, by sequence, drafts among them.
        drafts: those of sequences that have some in this step.
        new_blocks: blocks appended to running sequences.
        starts, copies: as in the plan.
        bar: rank of the first sequence that lost, or lacked, blocks in this step; from there on
            nobody starts.
    """

    step_id: int
    budget: int
    counts: dict[Sequence, int] = field(default_factory=dict)
    drafts: dict[Sequence, list[int]] = field(default_factory=dict)
    new_blocks: dict[Sequence, tuple[list[int], ...]] = field(default_factory=dict)
    starts: list[SlotStart] = field(default_factory=list)
    copies: list[BlockCopy] = field(default_factory=list)
    bar: tuple[int, ...] | None = None

    def give(self, sequence: Sequence, count: int) -> None:
        """A sequence computes `count` tokens; it has room for them."""
        assert 0 < count <= self.budget
        self.counts[sequence] = count
        self.budget -= count

    def run(self, sequence: Sequence, count: int, grant: Allocation) -> None:
        """A running sequence computes `count` tokens, with blocks added for them."""
        self.give(sequence, count)
        self.new_blocks[sequence] = grant.new_blocks

    def start(self, sequence: Sequence, count: int, grant: Allocation, start: SlotStart) -> None:
        """A sequence takes its slot and computes `count` tokens."""
        self.give(sequence, count)
        self.starts.append(start)
        self.copies.extend(grant.copies)

    def withdraw(self, sequence: Sequence) -> None:
        """A sequence is preempted; what it was given in this step goes back."""
        self.lack(sequence)
        self.budget += self.counts.pop(sequence, 0)
        self.new_blocks.pop(sequence, None)
        self.drafts.pop(sequence, None)

    def seal(
        self, ended: list[int], drafting: Drafting, *, full: bool = False
    ) -> tuple[StepPlan, list[Ride]]:
        """The finished plan, with the sequences' counts moved on to what they will be after it.

        Args:
            ended: slots that are given up.
            drafting: says for whom tokens are to be proposed.
            full: sequences wait for seats.
        """
        rides, slots, generations = [], [], []
        appended, drafts, propose = [], [], []
        speculation, num_drafts, ahead = drafting.enabled, 0, list[int]()
        sampling: list[Sequence] = []
        reads = False
        for sequence, count in self.counts.items():
            slot, generation = sequence.slot, sequence.generation
            sequence.num_computed += count
            if sequence.forced:
                position = len(sequence.token_ids) - sequence.forced
                appended.append((slot, position, sequence.token_ids[position:]))
                sequence.forced = 0
            if speculation:
                ahead = self.drafts.get(sequence, [])
                num_drafts = len(ahead)
                sequence.drafts = []
            samples = sequence.num_computed - num_drafts == len(sequence.token_ids) + sequence.num_pending
            sequence.num_pending += samples
            reads = reads or count - num_drafts > 1 or not samples
            if speculation and samples:
                if ahead:
                    drafts.append((slot, ahead))
                sequence.speculating = bool(ahead)
                if sequence.beam is None:
                    sampling.append(sequence)
            rides.append(Ride(sequence, slot, generation, count, num_drafts, samples))
            slots.append(slot)
            generations.append(generation)
        for sequence, asked in zip(sampling, drafting.ask(sampling, full=full), strict=True):
            if asked:
                propose.append((sequence.slot, asked))
                sequence.speculating = sequence.asked = True
        plan = StepPlan(
            self.step_id,
            ended,
            self.starts,
            slots,
            generations,
            counts=list(self.counts.values()),
            new_blocks=[(sequence.slot, ids) for sequence, ids in self.new_blocks.items()],
            copies=self.copies,
            appended=appended,
            drafts=drafts,
            propose=propose,
            keep_states=speculation
            and drafting.keeping.decide(drafts=bool(drafts or propose), samples=bool(sampling), reads=reads),
        )
        return plan, rides

    def lack(self, sequence: Sequence) -> None:
        """There were not enough blocks for a sequence."""
        self.bar = sequence.rank if self.bar is None else min(self.bar, sequence.rank)

    def admits(self, sequence: Sequence) -> bool:
        """True if a waiting sequence may start without taking what one before it lacked."""
        return self.budget > 0 and (self.bar is None or sequence.rank < self.bar)


def surprises(ride: Ride, token_ids: list[int]) -> bool:
    """Whether a step sampled another token than the one that was certain to come."""
    sequence = ride.sequence
    if not (ride.samples and sequence.foreseen):
        return False
    return token_ids[0] != sequence.token_ids[sequence.num_confirmed + ride.num_tokens]


def explain(ride: Ride, answer: SlotResult) -> str:
    """Why a completion failed."""
    if answer.error is not None:
        return answer.error
    if len(answer.token_ids) == 1 and surprises(ride, answer.token_ids):
        return f"The worker sampled token {answer.token_ids[0]} where another one alone was legal."
    expected = f"1 to {ride.num_drafts + 1}" if ride.num_drafts else str(int(ride.samples))
    return f"The worker returned {len(answer.token_ids)} token ids; the plan asked for {expected}."


def tell_time(
    drafting: Drafting,
    plan: StepPlan,
    rides: list[Ride],
    answers: list[SlotResult],
    skipping: int,
    seconds: float,
) -> None:
    """Tell what a step took, unless some of a prompt was in it: that would hide what drafts cost.

    Args:
        skipping: sequences that were not in it because they waited for the step before.
    """
    drafts = sum(len(ids) for _, ids in plan.drafts)
    if plan.num_tokens - drafts == len(rides) and all(ride.samples for ride in rides):
        asked = sum(count for _, count in plan.propose)
        emitted = sum(len(answer.token_ids) for answer in answers)
        ready = {slot for slot, _ in plan.propose}
        asking = [ride.sequence for ride in rides if ride.slot in ready]
        behind = max((len(one.token_ids) - one.acceptance.known for one in asking), default=0)
        drafting.timed(len(rides), skipping, drafts, asked, emitted, behind, seconds)
