from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quire.kv import KVManager, TokenChain, first_block, longest_sequence, root_digest, window_quota
from quire.kv.window import span

sizes = st.integers(1, 6)
windows = st.integers(1, 20)


@given(st.integers(0, 60), windows, sizes)
def test_the_first_block_holds_the_earliest_token_seen(position: int, window: int, block_size: int) -> None:
    seen = [p for p in range(position + 1) if p > position - window]
    assert first_block(position, window, block_size) == seen[0] // block_size
    assert first_block(position, None, block_size) == 0


@given(st.integers(1, 40), sizes)
def test_a_span_is_the_most_blocks_that_tokens_in_a_row_touch(count: int, block_size: int) -> None:
    touched = [(start + count - 1) // block_size - start // block_size + 1 for start in range(block_size)]
    assert span(count, block_size) == max(touched)


@given(windows, st.integers(1, 12), sizes)
def test_a_quota_covers_every_step_of_a_long_sequence(window: int, step: int, block_size: int) -> None:
    needed = [-(-(done + step) // block_size) - first_block(done, window, block_size) for done in range(80)]
    assert window_quota(window, step, block_size) == max(needed)


@given(st.integers(1, 12), windows, sizes)
def test_a_pool_bounds_a_sequence_only_if_a_window_may_not_fit(
    usable: int, window: int, block_size: int
) -> None:
    # A token a step: at each, the blocks of the window that ends with it.
    needed = [p // block_size - first_block(p, window, block_size) + 1 for p in range(120)]
    expected = None if max(needed) <= usable else usable * block_size
    assert longest_sequence(usable, window, block_size) == expected
    assert longest_sequence(usable, None, block_size) == usable * block_size


def chain_of(token_ids: list[int]) -> TokenChain:
    return TokenChain(token_ids, 4, root_digest({}))


def grown(kv: KVManager, token_ids: list[int], until: int) -> None:
    """A sequence "a" computed four tokens a step."""
    for done in range(4, until + 1, 4):
        assert kv.allocate("a", done, step=0) is not None
        kv.commit("a", chain_of(token_ids), done)
        kv.trim("a", done)
        kv.check()


def test_what_left_the_window_goes_back_in_its_group_alone() -> None:
    kv = KVManager(4, (12, 12), windows=(None, 6))
    grown(kv, list(range(20)), 20)
    whole, windowed = kv.block_table("a")
    assert 0 not in whole
    assert [block != 0 for block in windowed] == [False, False, False, True, True]  # from token 15 on
    assert [(u.used, u.cached, u.free) for u in kv.usage()] == [(5, 0, 6), (2, 3, 6)]
    kv.free("a")
    kv.check()
    assert [(u.used, u.cached) for u in kv.usage()] == [(0, 5), (0, 5)]


def test_without_prefix_caching_what_left_the_window_is_free() -> None:
    kv = KVManager(4, (5,), enable_prefix_caching=False, windows=(6,))
    grown(kv, list(range(40)), 40)
    assert [(u.used, u.cached, u.free) for u in kv.usage()] == [(2, 0, 2)]


def test_a_prefix_hit_needs_the_blocks_inside_the_window_alone() -> None:
    tokens = list(range(24))
    kv = KVManager(4, (12,), windows=(6,))
    grown(kv, tokens, 24)
    table = kv._groups[0].prefix(chain_of(tokens), 6)
    kv.free("a")
    found = kv.find_prefix(chain_of(tokens), 23)
    assert (found.num_tokens, found.blocks) == (20, ([0, 0, 0, *_blocks(kv, tokens)[3:5]],))
    assert kv.allocate("b", 24, step=0, prefix=found) is not None
    kv.check()
    assert kv.usage()[0].used == 3
    assert table[-1] != 0
    # Without block 2, a prefix can end after block 1, or after block 4, when block 3 is the first one seen.
    _forget(kv, _blocks(kv, tokens)[2])
    assert kv.find_prefix(chain_of(tokens), 23).num_tokens == 20
    assert kv.find_prefix(chain_of(tokens), 19).num_tokens == 8


def test_a_prefix_ends_where_all_groups_have_what_they_see() -> None:
    tokens = list(range(24))
    kv = KVManager(4, (12, 12, 12), windows=(6, None, 10))
    assert kv.allocate("a", 24, step=0) is not None
    kv.commit("a", chain_of(tokens), 24)
    assert kv.find_prefix(chain_of(tokens), 24).num_tokens == 24
    _forget(kv, _blocks(kv, tokens)[4])  # unseen by none that ends after it
    assert kv.find_prefix(chain_of(tokens), 24).num_tokens == 16
    _forget(kv, _blocks(kv, tokens, group=2)[1], group=2)
    assert kv.find_prefix(chain_of(tokens), 24).num_tokens == 4
    assert [ids[:1] == [0] for ids in kv.find_prefix(chain_of(tokens), 24).blocks] == [False] * 3


def test_a_fork_holds_what_its_own_window_sees() -> None:
    kv = KVManager(4, (12,), windows=(6,))
    assert kv.allocate("a", 22, step=0) is not None
    kv.fork("a", "child", 21)
    kv.trim("a", 22)
    kv.check()
    parent = kv.block_table("a")[0]
    assert parent[:4] == [0] * 4  # from token 17 on
    assert kv.block_table("child")[0] == [0, 0, 0, 0, parent[4]]
    grant = kv.allocate("child", 22, step=1)
    assert grant is not None
    assert [(copy.src, copy.dst) for copy in grant.copies] == [(parent[5], grant.new_blocks[0][0])]
    for holder in ("a", "child"):
        kv.free(holder)
    kv.release(1)
    kv.check()
    assert kv.usage()[0].used == 0


def test_a_window_takes_blocks_as_it_goes() -> None:
    kv = KVManager(4, (40, 40), windows=(None, 6))
    grant = kv.allocate("a", 8, step=0, ahead=80)
    assert grant is not None
    assert [len(ids) for ids in grant.new_blocks] == [20, 2]
    grant = kv.allocate("a", 13, step=0)
    assert grant is not None
    assert [len(ids) for ids in grant.new_blocks] == [0, 2]
    kv.check()
    assert kv.max_growth(8, 8) == (0 + 39) * 4 - 8
    assert kv.max_growth(8, 16) == 39 * 4 - 16
    assert kv.max_growth(16, 16) == (2 + 39) * 4 - 16


def _blocks(kv: KVManager, tokens: list[int], group: int = 0) -> list[int]:
    """The indexed blocks of a sequence, all there."""
    chain = chain_of(tokens)
    found = [kv._groups[group].index.get(chain.digest(i)) for i in range(len(tokens) // 4)]
    return [block or 0 for block in found]


def _forget(kv: KVManager, block: int, group: int = 0) -> None:
    kv._groups[group].index.remove(block)
    kv._groups[group].pool.set_indexed(block, False)
    kv.check()
