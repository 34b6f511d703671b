"""Memory for weights: aligned, apart from one another, in few pieces; and scratch memory, which is one."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_native_cpu import load
from quire_native_cpu.arena import Arena
from quire_native_cpu.compile import recorded
from quire_native_cpu.memory import Memory

MIB = 1 << 20

needs_library = pytest.mark.skipif(recorded().error is not None, reason="nothing was compiled")


@needs_library
@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 1000) | st.sampled_from([30 * MIB, 64 * MIB, 70 * MIB]), max_size=8))
def test_what_is_taken_is_aligned_and_apart(sizes: list[int]) -> None:
    arena = Arena(load())
    taken = [arena.take(size) for size in sizes]
    assert [one.numel() for one in taken] == sizes
    assert all(one.dtype == torch.uint8 for one in taken)
    spans = sorted((one.data_ptr(), one.data_ptr() + one.numel()) for one in taken if one.numel())
    assert all(start % 64 == 0 for start, _ in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@needs_library
def test_small_ones_share_a_piece_that_begins_at_a_huge_page() -> None:
    arena = Arena(load())
    first, second = arena.take(100), arena.take(100)
    assert first.data_ptr() % (2 * MIB) == 0
    assert second.data_ptr() == first.data_ptr() + 128
    assert arena.take(65 * MIB).data_ptr() % (2 * MIB) == 0


@needs_library
def test_a_piece_lives_as_long_as_what_was_taken_of_it() -> None:
    arena = Arena(load())
    kept = arena.take(64)
    kept.fill_(5)
    gone = weakref.ref(arena)
    del arena
    gc.collect()
    assert gone() is None
    torch.full((MIB,), 9, dtype=torch.uint8)
    assert (kept == 5).all()


def test_scratch_memory_grows_and_keeps_nobody_waiting() -> None:
    memory = Memory()
    first = memory.take(100)
    first.fill_(3)
    assert first.numel() >= 100
    assert memory.take(50) is first
    assert memory.take(1000).numel() >= 1000
    assert (first == 3).all()
