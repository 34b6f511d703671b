"""Which blocks belong to whom: block tables over one or more KV groups, prefix hits, forks.

Knows holders, tokens and blocks. Must never know about budgets, slots, policies or devices: a copy of
a block is asked for in the plan, never done here.

Rules that hold between calls:
    * A block is held by its holders (a request's table, a step in flight, a KV transfer) and
      goes back to its pool with the last of them.
    * A block is indexed only when it is full and each of its tokens is accepted.
    * Nobody writes to an indexed block, nor below another holder's accepted tokens: a fork shares
      full blocks, and the partial one is copied before the child writes.
    * An allocation succeeds in all groups or in none.
    * A table has one entry per `block_size` tokens. In a group with a sliding window the null block stands
      where no later query looks, and the table may end earlier than those of the other groups.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from quire.kv.block_pool import NULL_BLOCK, PoolUsage
from quire.kv.group import KVGroup
from quire.kv.prefix_index import TokenChain
from quire.plan import BlockCopy

__all__ = ["Allocation", "KVManager", "Prefix"]


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix found in the index; true until the next change of the manager.

    Attributes:
        num_tokens: tokens whose KV is there, a multiple of the block size.
        num_queried: tokens that were looked for.
        blocks: per group the blocks, in order; the null block where they are out of the group's window.
    """

    num_tokens: int
    num_queried: int
    blocks: tuple[list[int], ...]


@dataclass(frozen=True, slots=True)
class Allocation:
    """What an `allocate` gave.

    Attributes:
        new_blocks: per group the block ids appended to the table; found prefix blocks are not among them.
        copies: to be done before the step's forward pass.
    """

    new_blocks: tuple[list[int], ...]
    copies: tuple[BlockCopy, ...] = ()


@dataclass(slots=True)
class _Table:
    """A request's blocks, per group, in order.

    `firsts` counts per group the blocks at the start that are out of the window: null blocks, all of them.
    `sources` is the parent's partial block per group, from which a fork is still to copy `num_shared` tokens.
    """

    blocks: tuple[list[int], ...]
    firsts: list[int]
    num_committed: int = 0
    sources: tuple[int, ...] = ()
    num_shared: int = 0


class KVManager:
    """Paged KV over one or more groups."""

    def __init__(
        self,
        block_size: int,
        num_blocks: Sequence[int],
        enable_prefix_caching: bool = True,
        *,
        windows: Sequence[int | None] | None = None,
    ) -> None:
        """Build the groups' pools.

        Args:
            block_size: tokens per block, in every group.
            num_blocks: per group its block ids, the null block included.
            enable_prefix_caching: without it nothing is indexed and no prefix is ever found.
            windows: per group its sliding window in tokens, None for none; None if no group has any.

        Raises:
            ConfigError: a group has no usable block.
        """
        assert num_blocks, "a manager needs at least one KV group"
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._prefix_queries = 0
        self._prefix_hits = 0
        self._groups = [
            KVGroup.of(count, block_size, window)
            for count, window in zip(num_blocks, windows or [None] * len(num_blocks), strict=True)
        ]
        self._windowed = [(g, group) for g, group in enumerate(self._groups) if group.window is not None]
        self._tables: dict[Hashable, _Table] = {}
        self._holds: dict[Hashable, list[tuple[int, int]]] = {}
        self._nothing = Allocation(tuple([] for _ in num_blocks))

    # --- looking up

    def find_prefix(self, chain: TokenChain, max_tokens: int) -> Prefix:
        """The longest prefix of full blocks that every group has, as far back as its window goes.

        Args:
            chain: the request's digests.
            max_tokens: how many tokens may be found: below the request's length, for at least one
                has to be computed; 0 if none may (prompt log probabilities need each position's logits).
        """
        if not self.enable_prefix_caching:
            return Prefix(0, 0, tuple([] for _ in self._groups))
        whole = [group.index for group in self._groups if group.window is None]
        limit, count = max_tokens // self.block_size, 0
        while count < limit and all(index.get(chain.digest(count)) is not None for index in whole):
            count += 1
        longest = -1
        while longest != count:  # each group may only shorten what the others reach
            longest = count
            for _, group in self._windowed:
                count = group.reach(chain, count)
        blocks = tuple(group.prefix(chain, count) for group in self._groups)
        return Prefix(count * self.block_size, max_tokens, blocks)

    def has_table(self, holder: Hashable) -> bool:
        """True if `holder` holds a block table, be it a fork that has not started."""
        return holder in self._tables

    def block_table(self, holder: Hashable) -> tuple[list[int], ...]:
        """Per group the holder's blocks in order (copies of the lists)."""
        return tuple(list(blocks) for blocks in self._tables[holder].blocks)

    @property
    def bounds_growth(self) -> bool:
        """False if `max_growth` is no bound, whatever it is asked: no group has a window."""
        return bool(self._windowed)

    def max_growth(self, num_accepted: int, num_computed: int) -> int:
        """Tokens that a sequence could compute next if it had all blocks to itself.

        Only windows bound it here: what all groups together can keep is a matter of admission.

        Args:
            num_accepted: its tokens accepted, as last told to `trim`.
            num_computed: its tokens computed, those of steps under way included.
        """
        if not self._windowed:
            return sys.maxsize
        ends = (
            (group.first_block(num_accepted) + group.pool.num_usable) * self.block_size
            for _, group in self._windowed
        )
        return min(ends, default=sys.maxsize) - num_computed

    def has_room(self, holder: Hashable, num_tokens: int) -> bool:
        """Whether a holder with a table needs no further block for `num_tokens` tokens."""
        return self._has_room(self._tables[holder], num_tokens)

    def usage(self) -> tuple[PoolUsage, ...]:
        """Per group its counts of blocks."""
        return tuple(group.pool.usage() for group in self._groups)

    @property
    def prefix_queries(self) -> int:
        """Tokens looked up in the index by requests that then got their blocks."""
        return self._prefix_queries

    @property
    def prefix_hits(self) -> int:
        """Tokens of those that were found."""
        return self._prefix_hits

    # --- taking

    def allocate(
        self,
        holder: Hashable,
        num_tokens: int,
        *,
        step: Hashable,
        ahead: int = 0,
        prefix: Prefix | None = None,
        reserve: int = 0,
    ) -> Allocation | None:
        """Grow the holder's table to `num_tokens` tokens, in all groups or in none.

        Args:
            holder: a request; its table is made at its first call.
            num_tokens: tokens the table must have room for, those it has room for already included.
            step: holder of the sources of the returned copies; `release` it when the step is done.
            ahead: tokens it should have room for, if more, in groups without a window.
            prefix: what `find_prefix` just found, for a holder without a table.
            reserve: blocks that must stay available in each group.

        Returns:
            What was added, or None if it does not fit; then nothing has changed.
        """
        table = self._tables.get(holder)
        if table is not None and self._has_room(table, num_tokens):
            return self._nothing
        fresh = table is None
        if table is None:
            table = self._new_table(prefix)
        ahead = max(ahead, num_tokens)
        need = [
            group.wanted(num_tokens, ahead) - len(blocks)
            for group, blocks in zip(self._groups, table.blocks, strict=True)
        ]
        if not self._fits(need, reserve, table.blocks if fresh else ()):
            return None
        if fresh:
            self._open(holder, table, prefix)
        added = tuple(
            [group.pool.take() for _ in range(count)] for group, count in zip(self._groups, need, strict=True)
        )
        copies = self._copies(table, added, step) if table.sources else ()
        for blocks, new in zip(table.blocks, added, strict=True):
            blocks.extend(new)
        return Allocation(added, copies)

    def fork(self, parent: Hashable, child: Hashable, num_tokens: int) -> None:
        """Give `child` the first `num_tokens` tokens of `parent`'s KV.

        Full blocks are shared. A partial last one is only held here: the child's next `allocate`
        takes a block of its own for it and returns the copy. So a fork never fails for want of
        blocks, and the parent may go on, or end, in between.
        """
        assert child not in self._tables, f"{child!r} has a block table already"
        parents = self._tables[parent]
        full, rest = divmod(num_tokens, self.block_size)
        firsts = [min(group.first_block(num_tokens), full) for group in self._groups]
        assert all(old <= new for old, new in zip(parents.firsts, firsts, strict=True))
        shared = tuple(
            [NULL_BLOCK] * first + blocks[first:full]
            for first, blocks in zip(firsts, parents.blocks, strict=True)
        )
        sources = tuple(blocks[full] for blocks in parents.blocks) if rest else ()
        for group, ids in zip(self._groups, shared, strict=True):
            group.hold(ids)
        for g, source in enumerate(sources):
            self._groups[g].pool.hold(source)
        self._tables[child] = _Table(shared, firsts, num_committed=full, sources=sources, num_shared=rest)

    def hold(self, holder: Hashable, group: int, block: int) -> None:
        """Keep a held or cached block of KV group `group` until `release(holder)`."""
        self._groups[group].pool.hold(block)
        self._holds.setdefault(holder, []).append((group, block))

    # --- indexing

    def commit(self, holder: Hashable, chain: TokenChain, num_tokens: int) -> None:
        """Index the blocks that are full now that `num_tokens` tokens are computed and accepted.

        A block whose content is indexed already stays out of the index.
        """
        table = self._tables[holder]
        full = num_tokens // self.block_size
        if full == table.num_committed or not self.enable_prefix_caching:
            return
        for i in range(table.num_committed, full):
            digest = chain.digest(i)
            for group, blocks in zip(self._groups, table.blocks, strict=True):
                if group.index.insert(digest, blocks[i]):
                    group.pool.set_indexed(blocks[i], True)
        table.num_committed = full

    def reset_prefix_cache(self) -> None:
        """Forget every prefix. Running requests keep their blocks; no later one finds them."""
        for group in self._groups:
            for block in list(group.index):
                group.index.remove(block)
                group.pool.set_indexed(block, False)

    # --- giving back

    def free(self, holder: Hashable) -> None:
        """Take the holder's table away, tail first, so that a chain's end is evicted before its start."""
        table = self._tables.pop(holder)
        for g, source in enumerate(table.sources):
            self._groups[g].pool.release(source)
        for group, blocks in zip(self._groups, table.blocks, strict=True):
            group.release(blocks)

    def trim(self, holder: Hashable, num_tokens: int) -> None:
        """Let go of the blocks that no query at position `num_tokens` or later may see.

        The null block takes their places. A block that is indexed stays cached, as after `free`.

        Args:
            holder: has a table.
            num_tokens: tokens accepted: no step under way, nor any to come, computes one before.
        """
        if not self._windowed:
            return
        table = self._tables[holder]
        for g, group in self._windowed:
            blocks, first = table.blocks[g], table.firsts[g]
            end = min(group.first_block(num_tokens), len(blocks))
            if end > first:
                group.release(blocks[first:end])
                blocks[first:end] = [NULL_BLOCK] * (end - first)
                table.firsts[g] = end

    def release(self, holder: Hashable) -> None:
        """Let go of what `hold`, or a copy in step `holder`, kept; nothing if there is nothing."""
        for group, block in reversed(self._holds.pop(holder, [])):
            self._groups[group].pool.release(block)

    def check(self) -> None:
        """Assert that the books balance; O(blocks), for tests and diagnosis."""
        for g, group in enumerate(self._groups):
            held = [0] * group.pool.num_blocks
            for table in self._tables.values():
                assert not any(table.blocks[g][: table.firsts[g]])
                assert all(table.blocks[g][table.firsts[g] :])
                for block in [*table.blocks[g][table.firsts[g] :], *table.sources[g : g + 1]]:
                    held[block] += 1
            for holds in self._holds.values():
                for where, block in holds:
                    if where == g:
                        held[block] += 1
            queue, indexed = group.pool.queue(), set(group.index)
            usage = group.pool.usage()
            assert held == [group.pool.num_holders(b) for b in range(group.pool.num_blocks)]
            assert sorted(queue) == [b for b in range(1, group.pool.num_blocks) if not held[b]]
            assert indexed == {b for b in range(group.pool.num_blocks) if group.pool.is_indexed(b)}
            assert usage.cached == len(indexed.intersection(queue))
            assert usage.used == sum(count > 0 for count in held)
            assert usage.free + usage.used + usage.cached == usage.total == group.pool.num_blocks - 1

    # --- helpers

    def _has_room(self, table: _Table, num_tokens: int) -> bool:
        """True if a table needs no further block for `num_tokens` tokens."""
        for blocks in table.blocks:  # noqa: SIM110 - asked per sequence and step: no generator here
            if num_tokens > len(blocks) * self.block_size:
                return False
        return True

    def _fits(self, need: Sequence[int], reserve: int, revived: Sequence[list[int]]) -> bool:
        """True if every group can give what it needs, after `revived` blocks left its queue."""
        for g, group in enumerate(self._groups):
            available = group.pool.num_available - reserve
            if revived:
                available -= sum(
                    block != NULL_BLOCK and group.pool.num_holders(block) == 0 for block in revived[g]
                )
            if need[g] > available:
                return False
        return True

    def _new_table(self, prefix: Prefix | None) -> _Table:
        """A table that starts with the prefix's blocks, not held yet."""
        if prefix is None:
            return _Table(tuple([] for _ in self._groups), [0] * len(self._groups))
        count = prefix.num_tokens // self.block_size
        firsts = [min(group.first_block(prefix.num_tokens), count) for group in self._groups]
        return _Table(tuple(list(blocks) for blocks in prefix.blocks), firsts, num_committed=count)

    def _open(self, holder: Hashable, table: _Table, prefix: Prefix | None) -> None:
        """Let `holder` have a new table."""
        for group, blocks in zip(self._groups, table.blocks, strict=True):
            group.hold(blocks)
        self._tables[holder] = table
        if prefix is not None:
            self._prefix_queries += prefix.num_queried
            self._prefix_hits += prefix.num_tokens

    def _copies(self, table: _Table, added: tuple[list[int], ...], step: Hashable) -> tuple[BlockCopy, ...]:
        """Copy the fork's source into its first own block; the source's hold passes to the step."""
        copies = tuple(
            BlockCopy(group=g, src=source, dst=added[g][0], num_tokens=table.num_shared)
            for g, source in enumerate(table.sources)
        )
        self._holds.setdefault(step, []).extend((copy.group, copy.src) for copy in copies)
        table.sources = ()
        return copies
