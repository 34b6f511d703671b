"""Page tables name the blocks that rows see, and nobody else's."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.contracts import AttentionBatch
from quire_attn_flashinfer.pages import page_table

COUNTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=6)


def make_batch(lengths: list[tuple[int, int]], block_size: int) -> AttentionBatch:
    """Requests of (rows, tokens before them); request i has blocks 100 i + 1, 100 i + 2 and on."""
    rows = [count for count, _ in lengths]
    ends = [count + before for count, before in lengths]
    width = -(-max(ends) // block_size) + 1
    table = torch.zeros(len(ends), width, dtype=torch.int32)
    for request, end in enumerate(ends):
        own = -(-end // block_size)
        table[request, :own] = 100 * request + torch.arange(1, own + 1)
    positions = [end - count + row for count, end in zip(rows, ends, strict=True) for row in range(count)]
    return AttentionBatch(
        query_start=torch.tensor([0, *accumulate(rows)], dtype=torch.int32),
        seq_lens=torch.tensor(ends, dtype=torch.int32),
        positions=torch.tensor(positions, dtype=torch.int64),
        block_table=table,
        slot_mapping=torch.full((sum(rows),), -1, dtype=torch.int64),
        max_query_len=max(rows),
        max_seq_len=max(ends),
        query_lens_host=rows,
        seq_lens_host=ends,
    )


@given(COUNTS, st.sampled_from([1, 3, 16]), st.sampled_from([None, 1, 4, 17]))
def test_it_names_what_the_rows_see(lengths: Any, block_size: int, window: int | None) -> None:
    some = [request for request, (rows, _) in enumerate(lengths) if rows]
    if not some:
        return
    batch = make_batch(lengths, block_size)
    table = page_table(batch, some, block_size, window)
    assert table.query_start.tolist() == [0, *accumulate(lengths[request][0] for request in some)]
    assert {x.dtype for x in (table.query_start, table.indptr, table.last_page_len, table.indices)} == {
        torch.int32
    }
    for place, request in enumerate(some):
        rows, before = lengths[request]
        seen = range(0 if window is None else max(before - window + 1, 0), before + rows)
        blocks = sorted({100 * request + 1 + position // block_size for position in seen})
        assert table.indices[table.indptr[place] : table.indptr[place + 1]].tolist() == blocks
        assert table.last_page_len[place] == (before + rows - 1) % block_size + 1


@pytest.mark.parametrize("window", [None, 8])
def test_who_holds_nothing_has_a_token_of_the_null_block(window: int | None) -> None:
    batch = make_batch([(1, 20), (1, 3)], 16)
    batch.block_table[1] = 0
    batch.seq_lens_host[1] = 0
    table = page_table(batch, [0, 1], 16, window)
    assert table.indices.tolist()[-1] == 0
    assert table.indptr.diff().tolist()[-1] == 1
    assert table.last_page_len.tolist() == [5, 1]
