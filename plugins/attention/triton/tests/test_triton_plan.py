"""The work laid out on the device covers every key and row once, within bounds known before."""

from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import AttentionBatch, AttentionNeed, CacheKind, CacheSpec
from quire_attn_triton.metadata import Partials, StepMetadata
from quire_attn_triton.work import Machine, work_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def need_of(window: int | None, kv_heads: int = 2, ratio: int = 4) -> AttentionNeed:
    kind = CacheKind.FULL if window is None else CacheKind.SLIDING_WINDOW
    cache = CacheSpec(kind=kind, num_kv_heads=kv_heads, head_dim=128, dtype="bfloat16", window=window)
    return AttentionNeed(
        device=DEVICE, dtype="bfloat16", cache=cache, num_q_heads=kv_heads * ratio, block_size=16
    )


def plan_of(need: AttentionNeed, lengths: list[tuple[int, int]], multiprocessors: int) -> StepMetadata:
    """The plan of a step of requests (context, rows)."""
    rows = [count for _, count in lengths]
    totals = [context + count for context, count in lengths]

    def on(values: list[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=DEVICE)

    batch = AttentionBatch(
        query_start=on([0, *accumulate(rows)], torch.int32),
        seq_lens=on(totals, torch.int32),
        positions=on([0] * sum(rows), torch.int64),
        block_table=torch.zeros((len(rows), 1), dtype=torch.int32, device=DEVICE),
        slot_mapping=on([-1] * sum(rows), torch.int64),
        max_query_len=max(rows),
        max_seq_len=max(totals),
        query_lens_host=rows,
        seq_lens_host=totals,
    )
    work = work_of(need, Machine(multiprocessors, 227 << 10), rows, max(rows))
    nothing = torch.empty(0, device=DEVICE)
    return StepMetadata(batch, work, Partials(nothing, nothing))


@given(
    lengths=st.lists(
        st.tuples(st.integers(0, 5000), st.one_of(st.integers(0, 5), st.integers(0, 300))),
        min_size=1,
        max_size=12,
    ),
    multiprocessors=st.sampled_from([1, 4, 132]),
    window=st.sampled_from([None, 1, 100, 3000]),
)
@settings(max_examples=25, deadline=None)
def test_all_keys_and_rows_are_somebodys_work(
    lengths: list[tuple[int, int]], multiprocessors: int, window: int | None
) -> None:
    plan = plan_of(need_of(window), lengths, multiprocessors)
    work, chunk = plan.work, int(plan.chunk)
    splits = plan.splits.tolist()
    items = [tuple(item) for item in plan.items.tolist()]
    tiles = [tuple(tile) for tile in plan.tiles.tolist()]
    wanted_items: list[tuple[int, int]] = []
    wanted_tiles: list[tuple[int, int]] = []
    places: list[int] = []
    for request, (context, rows) in enumerate(lengths):
        count, place = splits[request]
        if not 0 < rows <= work.max_rows:
            assert count == 0
            if rows > work.max_rows:
                wanted_tiles += [(request, tile) for tile in range(-(-rows // work.tile_rows))]
            continue
        lowest = 0 if window is None else max(context + 1 - window, 0) // work.decode.tile * work.decode.tile
        keys = context + rows - lowest
        assert (count - 1) * chunk < keys <= count * chunk
        wanted_items += [(request, split) for split in range(count)]
        places += range(place, place + count) if count > 1 else []
    assert sorted(item for item in items if item[0] >= 0) == wanted_items
    assert sorted(tile for tile in tiles if tile[0] >= 0) == wanted_tiles
    assert places == list(range(len(places)))
    assert len(places) * need_of(window).cache.num_kv_heads * work.lanes <= work.partial_rows


def test_grids_do_not_depend_on_lengths() -> None:
    need = need_of(None)
    shapes = {
        (plan.items.shape, plan.tiles.shape, plan.work)
        for lengths in ([(0, 1)] * 8, [(5000, 1)] * 8, [(9, 1)] * 7 + [(90000, 1)])
        for plan in [plan_of(need, lengths, 132)]
    }
    assert len(shapes) == 1


def test_a_long_request_among_short_ones_is_split() -> None:
    plan = plan_of(need_of(None, kv_heads=8), [(100, 1)] * 31 + [(60000, 1)], 132)
    assert plan.splits[:31, 0].tolist() == [1] * 31
    assert plan.splits[31, 0] > 60


def test_many_requests_of_like_length_are_not_split() -> None:
    plan = plan_of(need_of(None, kv_heads=8), [(2000, 1)] * 32, 16)
    assert set(plan.splits[:, 0].tolist()) == {1}
