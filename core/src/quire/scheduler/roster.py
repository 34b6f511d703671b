"""Who waits, who runs, and in which slot.

Keeps the two queues, the slots and the blocks of a sequence in step with one another. Must never know
budgets or stopping rules, nor choose whom to preempt.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort

from quire.kv import KVManager
from quire.scheduler.state import Sequence

__all__ = ["Roster"]


def _rank(sequence: Sequence) -> tuple[int, ...]:
    return sequence.rank


class Roster:
    """The live sequences: `waiting` and `running`, each sorted by rank.

    A sequence holds blocks while it runs. A waiting one holds some only as a fork, whose shared prompt
    blocks are a convenience: they are dropped when others need blocks, and it then starts like any other.
    """

    def __init__(self, kv: KVManager, num_slots: int) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._kv = kv
        self._forks: dict[Sequence, None] = {}
        self._free_slots = list(range(num_slots))
        self._generations = [0] * num_slots
        self._ended: list[int] = []

    @property
    def has_free_slot(self) -> bool:
        """True if a sequence could be seated."""
        return bool(self._free_slots)

    def enqueue(self, sequence: Sequence) -> None:
        """Let a sequence wait, at the place of its rank."""
        insort(self.waiting, sequence, key=_rank)

    def fork(self, parent: Sequence, child: Sequence, num_tokens: int) -> None:
        """Let a new `child` wait, holding the KV of the first `num_tokens` tokens of a running `parent`."""
        if num_tokens > 0:
            self._kv.fork(parent, child, num_tokens)
            child.num_computed = child.num_confirmed = num_tokens
            self._forks[child] = None
        self.enqueue(child)

    def drop_fork(self) -> bool:
        """Take the blocks of the fork that came last; False if no fork is waiting with any."""
        if not self._forks:
            return False
        child, _ = self._forks.popitem()
        self._kv.free(child)
        child.forget_computed()
        return True

    def seat(self, sequence: Sequence) -> None:
        """Move a waiting sequence, whose blocks are allocated, into the lowest free slot."""
        self._remove(self.waiting, sequence)
        self._forks.pop(sequence, None)
        slot = heapq.heappop(self._free_slots)
        self._generations[slot] += 1
        sequence.slot, sequence.generation = slot, self._generations[slot]
        insort(self.running, sequence, key=_rank)

    def preempt(self, sequence: Sequence) -> None:
        """Move a running sequence back to waiting, without its blocks."""
        self._unseat(sequence)
        sequence.forget_computed()
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.enqueue(sequence)

    def retire(self, sequence: Sequence) -> None:
        """Let go of a sequence for good."""
        if sequence.slot >= 0:
            self._unseat(sequence)
            return
        self._remove(self.waiting, sequence)
        if sequence in self._forks:
            del self._forks[sequence]
            self._kv.free(sequence)

    def take_ended(self) -> list[int]:
        """Slots that lost their sequence since the last call. Each may have a new one already: a worker
        frees the ended slots of a plan before it seats the starts."""
        ended, self._ended = self._ended, []
        return ended

    def _unseat(self, sequence: Sequence) -> None:
        self._remove(self.running, sequence)
        self._kv.free(sequence)
        heapq.heappush(self._free_slots, sequence.slot)
        self._ended.append(sequence.slot)
        sequence.slot = -1

    @staticmethod
    def _remove(queue: list[Sequence], sequence: Sequence) -> None:
        place = bisect_left(queue, sequence.rank, key=_rank)
        assert queue[place] is sequence, f"{sequence.state.request.request_id} is not where its rank says"
        del queue[place]
