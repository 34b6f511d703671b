"""The blocks of one KV group: who is held, who is free, who goes next.

Knows block ids and how many holders each has. Must never know tokens, requests or hashes: whether
a block is *indexed* is one bit here, what it is indexed under is the prefix index's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quire.errors import ConfigError

__all__ = ["NULL_BLOCK", "BlockPool", "PoolUsage"]

NULL_BLOCK = 0
"""Id that stands in tables where there is no block; never handed out."""


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Blocks of one pool by state; the null block is in none of them.

    Attributes:
        free: held by nobody and not indexed.
        used: held.
        cached: held by nobody, but a prefix hit may still revive them.
        total: usable blocks, the sum of the three.
    """

    free: int
    used: int
    cached: int
    total: int


class BlockPool:
    """Ids `1 .. num_blocks - 1`, each with a count of holders.

    Blocks without a holder wait in one queue, a circular doubly linked list over two arrays with the
    null block as its sentinel: O(1) to take from the head, to add at either end, and to pull
    out of the middle. Blocks that are not indexed join at the head, so that they go first;
    indexed ones join at the tail, so that the least recently used is evicted first.
    """

    def __init__(self, num_blocks: int, on_evict: Callable[[int], None]) -> None:
        """Build a pool with every block free.

        Args:
            num_blocks: ids, the null block included.
            on_evict: told an indexed block's id just before it is handed out anew.

        Raises:
            ConfigError: fewer than one usable block.
        """
        if num_blocks < 2:
            raise ConfigError(
                f"num_blocks={num_blocks} leaves no usable KV block (block 0 is the null block). "
                "Give at least 2, or more KV memory."
            )
        self.num_blocks = num_blocks
        self._on_evict = on_evict
        self._holders = [0] * num_blocks
        self._indexed = bytearray(num_blocks)
        self._next: list[int] = [*range(1, num_blocks), NULL_BLOCK]
        self._prev: list[int] = [num_blocks - 1, *range(num_blocks - 1)]
        self._num_queued = num_blocks - 1
        self._num_cached = 0

    @property
    def num_usable(self) -> int:
        """Blocks that can be handed out at all."""
        return self.num_blocks - 1

    @property
    def num_available(self) -> int:
        """Blocks that `take` can give: free and cached ones."""
        return self._num_queued

    def usage(self) -> PoolUsage:
        """The counts of this moment."""
        total, queued, cached = self.num_usable, self._num_queued, self._num_cached
        return PoolUsage(free=queued - cached, used=total - queued, cached=cached, total=total)

    def num_holders(self, block: int) -> int:
        """How many hold `block`."""
        return self._holders[block]

    def is_indexed(self, block: int) -> bool:
        """True while a prefix lookup may find `block`."""
        return bool(self._indexed[block])

    def take(self) -> int:
        """Hand out the next block, with one holder, evicting it from the index if need be."""
        block = self._next[NULL_BLOCK]
        assert block != NULL_BLOCK, "take() from a pool with nothing available"
        if self._indexed[block]:
            self._on_evict(block)
            self.set_indexed(block, False)
        self._unlink(block)
        self._holders[block] = 1
        return block

    def hold(self, block: int) -> None:
        """One holder more; a cached block comes back to life."""
        assert block != NULL_BLOCK, "the null block is held by nobody"
        if self._holders[block] == 0:
            assert self._indexed[block], f"block {block} is free; only take() hands out free blocks"
            self._num_cached -= 1
            self._unlink(block)
        self._holders[block] += 1

    def release(self, block: int) -> None:
        """One holder less; without any the block joins the queue."""
        assert self._holders[block] > 0, f"block {block} released more often than held"
        self._holders[block] -= 1
        if self._holders[block] == 0:
            if self._indexed[block]:
                self._num_cached += 1
                self._link(block, after=self._prev[NULL_BLOCK])
            else:
                self._link(block, after=NULL_BLOCK)

    def set_indexed(self, block: int, indexed: bool) -> None:
        """Record whether the prefix index knows `block`; an unheld one may only lose the mark."""
        if bool(self._indexed[block]) == indexed:
            return
        self._indexed[block] = indexed
        if self._holders[block] == 0:
            assert not indexed, f"block {block} is free and cannot become indexed"
            self._num_cached -= 1
            self._unlink(block)
            self._link(block, after=NULL_BLOCK)

    def _unlink(self, block: int) -> None:
        before, after = self._prev[block], self._next[block]
        self._next[before], self._prev[after] = after, before
        self._num_queued -= 1

    def _link(self, block: int, *, after: int) -> None:
        following = self._next[after]
        self._next[after], self._prev[following] = block, block
        self._prev[block], self._next[block] = after, following
        self._num_queued += 1

    def queue(self) -> list[int]:
        """Blocks without a holder, the next to go first. O(n): for tests and diagnosis."""
        blocks, block = [], self._next[NULL_BLOCK]
        while block != NULL_BLOCK:
            blocks.append(block)
            block = self._next[block]
        return blocks
