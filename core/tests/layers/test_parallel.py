from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import ConfigError, EngineError
from quire.layers import ParallelGroup


@given(size=st.integers(1, 8), each=st.integers(1, 5))
def test_shares_cover_the_axis_in_order(size: int, each: int) -> None:
    spans = [ParallelGroup(rank, size).shard(size * each, "x") for rank in range(size)]
    assert [i for s in spans for i in range(s.start, s.stop)] == list(range(size * each))
    assert all(s.full == size * each for s in spans)


@given(size=st.integers(1, 9), vocab=st.integers(1, 40))
def test_vocabulary_is_covered_whatever_its_size(size: int, vocab: int) -> None:
    spans = [ParallelGroup(rank, size).shard_vocab(vocab) for rank in range(size)]
    assert [i for s in spans for i in range(s.start, s.stop)] == list(range(vocab))
    assert all(s.size <= ParallelGroup(0, size).vocab_share(vocab) for s in spans)


@given(
    kv=st.sampled_from([1, 2, 4, 8]), ratio=st.sampled_from([1, 2, 7]), size=st.sampled_from([1, 2, 4, 8, 14])
)
def test_each_query_head_finds_its_kv_head_at_home(kv: int, ratio: int, size: int) -> None:
    heads = kv * ratio
    if heads % size or (kv % size and size % kv):
        return
    for rank in range(size):
        group = ParallelGroup(rank, size)
        q, k = group.shard(heads, "heads"), group.shard_heads(kv, 16, "kv")
        local_ratio = q.size // (k.size // 16)
        for local, head in enumerate(range(q.start, q.stop)):
            assert k.start // 16 + local // local_ratio == head // ratio


def test_misfits_are_named() -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_size 3 does not divide rows"):
        ParallelGroup(0, 3).shard(8, "rows")
    with pytest.raises(ConfigError, match="neither as a divisor nor as a multiple"):
        ParallelGroup(0, 3).shard_heads(2, 8, "num_key_value_heads")


def test_a_group_of_one_talks_to_nobody_and_a_larger_one_must() -> None:
    x = torch.ones(2)
    assert ParallelGroup().all_reduce(x) is x
    assert ParallelGroup().all_gather(x) is x
    with pytest.raises(EngineError, match="2 workers"):
        ParallelGroup(0, 2).all_reduce(x)
