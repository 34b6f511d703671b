from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quire.engine.planning.memory import MemoryBudget, divide
from quire.errors import CapacityError
from quire.runtime.profile import MemoryProfile

PROFILE = MemoryProfile(
    weights=100,
    activations=50,
    graphs=0,
    kv_bytes_per_block=10,
    device_free=100_000,
    device_total=200_000,
    measured_rows=8,
)


def budget(blocks: int, *windows: int | None, **changes: Any) -> MemoryBudget:
    settings: dict[str, Any] = {
        "device": "cpu",
        "utilization": 0.9,
        "kv_bytes": blocks * 10,
        "block_size": 4,
        "max_model_len": 100,
        "max_num_seqs": 2,
        "max_num_batched_tokens": 8,
        "windows": windows or (None,),
        "asked_max_model_len": True,
        **changes,
    }
    return divide(PROFILE, **settings)


def test_full_attention_needs_a_block_for_all_tokens() -> None:
    assert (budget(26).num_blocks, budget(26).tokens, budget(51).concurrency) == (26, 100, 2.0)
    with pytest.raises(
        CapacityError, match=r"max_model_len 100 needs 260.*The largest max_model_len that works is 96"
    ):
        budget(25)
    assert budget(25, asked_max_model_len=False).max_model_len == 96


def test_a_window_needs_room_for_itself_and_a_step() -> None:
    # 6 tokens seen and 8 computed, less the first one's own: 13 tokens lie in at most 4 blocks.
    assert budget(9, 6).concurrency == 2.0
    assert budget(9, 6).max_model_len == 100
    # 6 tokens lie in at most 3 blocks: with those any length runs.
    assert budget(4, 6).max_model_len == 100
    with pytest.raises(CapacityError, match=r"needs 40.*The largest max_model_len that works is 8"):
        budget(3, 6)


def test_the_most_demanding_group_decides() -> None:
    assert budget(51, 6, None).concurrency == 2.0
    with pytest.raises(CapacityError, match="needs 260"):
        budget(25, 6, None)


def test_a_cpus_default_follows_what_the_sequences_can_hold() -> None:
    assert budget(0, kv_bytes=None).num_blocks == 2 * 2 * 25
    assert budget(0, 6, kv_bytes=None).num_blocks == 2 * 2 * 4


def test_graphs_have_a_share_of_their_own() -> None:
    settings: dict[str, Any] = {
        "device": "cuda",
        "utilization": 0.9,
        "kv_bytes": None,
        "block_size": 4,
        "max_model_len": 100,
        "max_num_seqs": 2,
        "max_num_batched_tokens": 8,
        "windows": (None,),
        "asked_max_model_len": True,
    }
    without = divide(PROFILE, **settings)
    with_graphs = divide(replace(PROFILE, graphs=30_000), **settings)
    assert (with_graphs.graphs, without.kv - with_graphs.kv) == (30_000, 30_000)
    assert with_graphs.left == without.left
    found = with_graphs.with_graphs(20_000)
    assert (found.graphs, found.kv, found.left) == (20_000, with_graphs.kv, with_graphs.left + 10_000)
    with pytest.raises(CapacityError, match=r"\(weights 100 B, activations 50 B, graphs 78.0 KiB\)"):
        divide(replace(PROFILE, graphs=79_900), **settings)
