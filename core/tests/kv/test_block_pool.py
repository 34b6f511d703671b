from __future__ import annotations

import pytest

from quire.errors import ConfigError
from quire.kv import NULL_BLOCK, BlockPool, PoolUsage


def make(num_blocks: int = 5) -> tuple[BlockPool, list[int]]:
    evicted: list[int] = []
    return BlockPool(num_blocks, evicted.append), evicted


def test_every_block_but_the_null_block_is_handed_out_once() -> None:
    pool, _ = make()
    assert sorted(pool.take() for _ in range(4)) == [1, 2, 3, 4]
    assert pool.num_available == 0
    assert pool.usage() == PoolUsage(free=0, used=4, cached=0, total=4)
    assert pool.num_holders(NULL_BLOCK) == 0


@pytest.mark.parametrize("num_blocks", [1, 0, -1])
def test_a_pool_without_usable_blocks_is_refused(num_blocks: int) -> None:
    with pytest.raises(ConfigError, match=f"num_blocks={num_blocks} leaves no usable"):
        make(num_blocks)


def test_a_block_is_freed_with_its_last_holder() -> None:
    pool, _ = make()
    block = pool.take()
    pool.hold(block)
    pool.release(block)
    assert block not in pool.queue()
    pool.release(block)
    assert block in pool.queue()
    assert pool.usage().used == 0


def test_releasing_more_often_than_holding_is_caught() -> None:
    pool, _ = make()
    block = pool.take()
    pool.release(block)
    with pytest.raises(AssertionError, match="released more often"):
        pool.release(block)


def test_free_blocks_go_before_cached_ones_and_those_in_order_of_release() -> None:
    pool, evicted = make()
    blocks = [pool.take() for _ in range(4)]
    for block in blocks[:3]:
        pool.set_indexed(block, True)
    for block in (blocks[1], blocks[0], blocks[3], blocks[2]):
        pool.release(block)
    assert pool.usage() == PoolUsage(free=1, used=0, cached=3, total=4)
    assert [pool.take() for _ in range(4)] == [blocks[3], blocks[1], blocks[0], blocks[2]]
    assert evicted == [blocks[1], blocks[0], blocks[2]]


def test_a_cached_block_is_revived_out_of_the_middle_of_the_queue() -> None:
    pool, evicted = make()
    blocks = [pool.take() for _ in range(4)]
    for block in blocks:
        pool.set_indexed(block, True)
        pool.release(block)
    pool.hold(blocks[1])
    assert pool.queue() == [blocks[0], blocks[2], blocks[3]]
    assert pool.usage() == PoolUsage(free=0, used=1, cached=3, total=4)
    assert evicted == []
    assert pool.is_indexed(blocks[1])


def test_only_take_hands_out_free_blocks() -> None:
    pool, _ = make()
    with pytest.raises(AssertionError, match="only take"):
        pool.hold(3)


def test_a_cached_block_that_loses_its_mark_is_free_and_goes_first() -> None:
    pool, _ = make(4)
    blocks = [pool.take() for _ in range(3)]
    for block in blocks:
        pool.set_indexed(block, True)
        pool.release(block)
    pool.set_indexed(blocks[2], False)
    assert pool.usage() == PoolUsage(free=1, used=0, cached=2, total=3)
    assert pool.take() == blocks[2]
