from __future__ import annotations

import pytest

from quire.kv import Allocation, KVManager, PoolUsage, Prefix, TokenChain, root_digest
from quire.plan import BlockCopy

GROUPS = pytest.mark.parametrize("num_blocks", [(9,), (9, 12)], ids=["one group", "two groups"])


def chain_of(token_ids: list[int], **extra: str) -> TokenChain:
    return TokenChain(token_ids, 4, root_digest(extra))


def give(kv: KVManager, holder: str, num_tokens: int, prefix: Prefix | None = None) -> Allocation:
    allocation = kv.allocate(holder, num_tokens, step=0, prefix=prefix)
    assert allocation is not None
    kv.check()
    return allocation


def fill(kv: KVManager, holder: str, token_ids: list[int], **extra: str) -> None:
    """Allocate and commit a whole sequence."""
    give(kv, holder, len(token_ids))
    kv.commit(holder, chain_of(token_ids, **extra), len(token_ids))
    kv.check()


@GROUPS
def test_a_table_grows_by_whole_blocks_in_all_groups(num_blocks: tuple[int, ...]) -> None:
    kv = KVManager(4, num_blocks)
    sizes = [[len(ids) for ids in give(kv, "a", n).new_blocks] for n in (1, 4, 5, 12, 12)]
    assert sizes == [[n] * len(num_blocks) for n in (1, 0, 1, 1, 0)]
    assert [len(ids) for ids in kv.block_table("a")] == [3] * len(num_blocks)
    kv.free("a")
    kv.check()
    assert [usage.used for usage in kv.usage()] == [0] * len(num_blocks)


@pytest.mark.parametrize("num_blocks", [(4,), (4, 9), (9, 4)])
def test_what_does_not_fit_in_every_group_changes_nothing(num_blocks: tuple[int, ...]) -> None:
    kv = KVManager(4, num_blocks)
    give(kv, "a", 4)
    before = kv.usage()
    assert kv.allocate("b", 9, step=0) is None
    assert kv.allocate("b", 8, step=0, reserve=1) is None
    assert kv.allocate("a", 13, step=0) is None
    assert kv.usage() == before
    assert not kv.has_table("b")
    give(kv, "b", 8)


@GROUPS
def test_a_committed_prefix_is_found_and_revived(num_blocks: tuple[int, ...]) -> None:
    kv, tokens = KVManager(4, num_blocks), list(range(10))
    fill(kv, "a", tokens)
    table = kv.block_table("a")
    kv.free("a")
    assert [usage.cached for usage in kv.usage()] == [2] * len(num_blocks)
    prefix = kv.find_prefix(chain_of(tokens), 9)
    assert prefix == Prefix(8, 9, tuple(ids[:2] for ids in table))
    give(kv, "b", 10, prefix)
    assert [ids[:2] for ids in kv.block_table("b")] == [ids[:2] for ids in table]
    assert (kv.prefix_queries, kv.prefix_hits) == (9, 8)


def test_a_prefix_is_only_as_long_as_every_group_has_it() -> None:
    kv, tokens = KVManager(4, (9, 3)), list(range(8))
    fill(kv, "a", tokens)
    kv.free("a")
    give(kv, "b", 4)  # takes the tail's block of the small group
    assert kv.find_prefix(chain_of(tokens), 8).num_tokens == 4


def test_a_hit_needs_equal_tokens_and_equal_extra_keys() -> None:
    kv, tokens = KVManager(4, (20,)), [1, 2, 3, 4, 5]
    fill(kv, "a", tokens, cache_salt="s", adapter="x")
    for chain, hit in [
        (chain_of(tokens, cache_salt="s", adapter="x"), 4),
        (chain_of([1, 2, 3, 9, 5], cache_salt="s", adapter="x"), 0),
        (chain_of(tokens, cache_salt="t", adapter="x"), 0),
        (chain_of(tokens, cache_salt="s", adapter="y"), 0),
        (chain_of(tokens, cache_salt="s"), 0),
        (chain_of(tokens, adapter="x"), 0),
        (chain_of(tokens, cache_salt="x", adapter="s"), 0),
        (chain_of(tokens), 0),
    ]:
        assert kv.find_prefix(chain, 4).num_tokens == hit


def test_revived_blocks_are_not_counted_as_room() -> None:
    kv, tokens = KVManager(4, (4,)), list(range(8))
    fill(kv, "a", tokens)
    kv.free("a")
    prefix = kv.find_prefix(chain_of(tokens), 8)
    assert kv.allocate("b", 16, step=0, prefix=prefix) is None
    kv.check()
    give(kv, "b", 12, prefix)


def test_a_chain_is_evicted_from_its_end() -> None:
    kv, tokens = KVManager(4, (4,)), list(range(12))
    fill(kv, "a", tokens)
    kv.free("a")
    for taken, left in [(4, 8), (8, 4), (12, 0)]:
        give(kv, "b", taken)
        assert kv.find_prefix(chain_of(tokens), 12).num_tokens == left


def test_only_full_blocks_of_accepted_tokens_are_indexed() -> None:
    kv, tokens = KVManager(4, (9,)), list(range(8))
    give(kv, "a", 8)
    for accepted, found in [(3, 0), (4, 4), (7, 4), (8, 8)]:
        kv.commit("a", chain_of(tokens), accepted)
        assert kv.find_prefix(chain_of(tokens), 8).num_tokens == found


def test_the_same_content_is_indexed_once() -> None:
    kv, tokens = KVManager(4, (9,)), list(range(4))
    fill(kv, "a", tokens)
    fill(kv, "b", tokens)
    kv.free("b")
    assert kv.usage()[0].cached == 0
    assert kv.find_prefix(chain_of(tokens), 4).blocks == kv.block_table("a")


def test_without_prefix_caching_nothing_is_indexed_or_asked() -> None:
    kv, tokens = KVManager(4, (9,), enable_prefix_caching=False), list(range(8))
    fill(kv, "a", tokens)
    assert kv.find_prefix(chain_of(tokens), 8) == Prefix(0, 0, ([],))
    kv.free("a")
    assert kv.usage() == (PoolUsage(free=8, used=0, cached=0, total=8),)


@GROUPS
def test_a_fork_shares_full_blocks_and_copies_the_partial_one(num_blocks: tuple[int, ...]) -> None:
    kv = KVManager(4, num_blocks)
    give(kv, "parent", 7)
    parent = kv.block_table("parent")
    kv.fork("parent", "child", 6)
    kv.check()
    kv.free("parent")  # the child's hold keeps the copy's source
    kv.check()
    allocation = kv.allocate("child", 7, step=3)
    assert allocation is not None
    for g, copy in enumerate(allocation.copies):
        assert copy == BlockCopy(g, src=parent[g][1], dst=allocation.new_blocks[g][0], num_tokens=2)
        assert kv.block_table("child")[g] == [parent[g][0], copy.dst]
    assert len(allocation.copies) == len(num_blocks)
    kv.check()
    assert [usage.used for usage in kv.usage()] == [3] * len(num_blocks)  # the step still holds the source
    kv.release(3)
    kv.check()
    assert [usage.used for usage in kv.usage()] == [2] * len(num_blocks)


@pytest.mark.parametrize("num_tokens", [4, 8])
def test_a_fork_at_a_block_boundary_copies_nothing(num_tokens: int) -> None:
    kv = KVManager(4, (9,))
    give(kv, "parent", 9)
    kv.fork("parent", "child", num_tokens)
    assert give(kv, "child", num_tokens + 1).copies == ()
    assert kv.block_table("child")[0][:-1] == kv.block_table("parent")[0][: num_tokens // 4]


def test_a_fork_that_never_starts_gives_everything_back() -> None:
    kv = KVManager(4, (9,))
    give(kv, "parent", 7)
    kv.fork("parent", "child", 6)
    kv.free("child")
    kv.free("parent")
    kv.check()
    assert kv.usage()[0].used == 0


def test_any_holder_keeps_a_block_alive() -> None:
    kv = KVManager(4, (9,))
    give(kv, "a", 4)
    block = kv.block_table("a")[0][0]
    transfer = ("transfer", 17)
    kv.hold(transfer, 0, block)
    kv.free("a")
    kv.check()
    assert kv.usage()[0].used == 1
    kv.release(transfer)
    kv.check()
    assert kv.usage()[0].used == 0


@GROUPS
def test_a_reset_forgets_cached_and_held_blocks_alike(num_blocks: tuple[int, ...]) -> None:
    kv, tokens = KVManager(4, num_blocks), list(range(8))
    fill(kv, "a", tokens)
    fill(kv, "b", [9] * 8)
    kv.free("b")
    kv.reset_prefix_cache()
    kv.check()
    assert kv.find_prefix(chain_of(tokens), 8).num_tokens == 0
    kv.free("a")
    kv.check()
    assert [(usage.cached, usage.used) for usage in kv.usage()] == [(0, 0)] * len(num_blocks)
