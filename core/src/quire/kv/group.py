"""One KV group: its pool, its prefix index, and the window of its layers.

Knows nothing of holders or of the other groups.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.kv.block_pool import NULL_BLOCK, BlockPool
from quire.kv.prefix_index import PrefixIndex, TokenChain
from quire.kv.window import first_block

__all__ = ["KVGroup"]


@dataclass(slots=True)
class KVGroup:
    """A group's parts.

    Attributes:
        pool, index: its blocks, and how to find them by content.
        block_size: tokens per block.
        window: tokens that its layers look back, the query's own among them; None for all.
    """

    pool: BlockPool
    index: PrefixIndex
    block_size: int
    window: int | None

    @classmethod
    def of(cls, num_blocks: int, block_size: int, window: int | None) -> KVGroup:
        """A group with every block free."""
        index = PrefixIndex()
        return cls(BlockPool(num_blocks, index.remove), index, block_size, window)

    def first_block(self, num_tokens: int) -> int:
        """Number of the first block that a query at position `num_tokens` or later may see."""
        return first_block(num_tokens, self.window, self.block_size)

    def reach(self, chain: TokenChain, num_blocks: int) -> int:
        """Blocks of the longest prefix, at most `num_blocks`, whose last window is in the index."""
        end, i = num_blocks, num_blocks - 1
        while i >= self.first_block(end * self.block_size):
            if self.index.get(chain.digest(i)) is None:
                end = i
            i -= 1
        return end

    def prefix(self, chain: TokenChain, num_blocks: int) -> list[int]:
        """The blocks of a prefix that `reach` found; null blocks where it is out of the window."""
        first = min(self.first_block(num_blocks * self.block_size), num_blocks)
        found = [self.index.get(chain.digest(i)) for i in range(first, num_blocks)]
        return [NULL_BLOCK] * first + [block for block in found if block is not None]

    def wanted(self, num_tokens: int, ahead: int) -> int:
        """Blocks a table should have, null ones included.

        Args:
            num_tokens: tokens it must have room for.
            ahead: tokens it will need room for, at least `num_tokens`. Without a window it gets it at once;
                with one, what leaves the window makes up for most of what it takes later.
        """
        return -(-(ahead if self.window is None else num_tokens) // self.block_size)

    def hold(self, blocks: list[int]) -> None:
        """One holder more for each but the null block."""
        for block in blocks:
            if block != NULL_BLOCK:
                self.pool.hold(block)

    def release(self, blocks: list[int]) -> None:
        """One holder less for each but the null block, tail first: a chain is evicted from its end."""
        for block in reversed(blocks):
            if block != NULL_BLOCK:
                self.pool.release(block)
