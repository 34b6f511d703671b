"""Runs of tokens in steps of bounded size, and where their rows go."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.plan import SlotStart
from quire.runtime.draft_batches import Round, chunks, spare_blocks
from quire.runtime.slots import SlotTable
from quire.sampling_params import SamplingParams


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), min_size=1, max_size=6), st.integers(1, 25)
)
def test_chunks_cover_every_token_once_and_in_order(spans: list[tuple[int, int]], most: int) -> None:
    first, ends = [start for start, _ in spans], [start + count for start, count in spans]
    seen: dict[int, list[int]] = {place: [] for place in range(len(spans))}
    ended: list[int] = []
    for chunk in chunks(first, ends, most):
        assert 0 < chunk.count.sum() <= most
        assert len(set(chunk.place.tolist())) == len(chunk.place)
        for place, start, count in zip(chunk.place, chunk.first, chunk.count, strict=True):
            seen[place].extend(range(start, start + count))
        ended += chunk.place[chunk.ends].tolist()
        last = np.cumsum(chunk.count)[chunk.ends] - 1
        assert chunk.last_rows.tolist() == last.tolist()
    assert seen == {place: list(range(a, b)) for place, (a, b) in enumerate(zip(first, ends, strict=True))}
    assert ended == list(range(len(spans)))


def seated(tokens: list[int], held: list[int], max_model_len: int = 64) -> SlotTable:
    """Slots with so many tokens and blocks of 4, whose ids are 1, 2, ... in order."""
    table = SlotTable(len(tokens), max_model_len, 4, [None])
    block = 1
    for slot, (count, blocks) in enumerate(zip(tokens, held, strict=True)):
        ids = list(range(block, block + blocks))
        block += blocks
        token_ids = [100 * slot + i for i in range(count)]
        table.seat(SlotStart(slot, 1, str(slot), SamplingParams(), 0, token_ids, count, 0, (ids,)))
    return table


def test_rows_past_a_table_go_to_blocks_of_their_own() -> None:
    table = seated([8, 5, 64], [2, 4, 16])
    assert spare_blocks(5, 4) == 2
    asked = Round(table, 0, [0, 1, 2], most=5, spare=50, lag=0)
    assert asked.blocks[0, :4].tolist() == [1, 2, 50, 51]  # its last token is the last of its blocks
    assert asked.blocks[1, :4].tolist() == [3, 4, 5, 6]  # these are its own, for later
    assert asked.blocks[2, 16:].tolist() == [54, 55]
    (chunk,) = chunks([6, 4, 63], [8, 5, 64], 64)
    token_ids, batch = asked.batch(chunk, torch.device("cpu"))
    assert token_ids.tolist() == [6, 7, 104, 263]
    assert batch.positions.tolist() == [6, 7, 4, 63]
    assert batch.slot_mapping.tolist() == [4 * 2 + 2, 4 * 2 + 3, 4 * 4, 4 * 22 + 3]
    assert batch.seq_lens.tolist() == [8, 5, 64]
    assert batch.query_start.tolist() == [0, 2, 3, 4]
    assert batch.block_table[0, :2].tolist() == [1, 2]


def test_rows_may_lie_before_their_tokens() -> None:
    """A head's row j computes token j + 1."""
    asked = Round(seated([8, 5], [2, 4]), 0, [0, 1], most=3, spare=50, lag=1)
    assert asked.rows.tolist() == [7, 4]
    (chunk,) = chunks([5, 3], asked.rows.tolist(), 64)
    token_ids, batch = asked.batch(chunk, torch.device("cpu"))
    assert token_ids.tolist() == [6, 7, 104]
    assert batch.positions.tolist() == [5, 6, 3]
    assert batch.slot_mapping.tolist() == [4 * 2 + 1, 4 * 2 + 2, 4 * 3 + 3]
    run, positions = chunk.rows
    assert (run.tolist(), positions.tolist()) == ([0, 0, 1], [5, 6, 3])
