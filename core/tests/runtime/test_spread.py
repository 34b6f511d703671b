from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.plan import SlotStart
from quire.runtime.batching import BatchBuilder
from quire.runtime.slots import SlotTable
from quire.runtime.spread import MOST_ROWS, can_spread, spread
from quire.sampling_params import SamplingParams

BLOCK, PROMPT = 4, 3


def seat(table: SlotTable, slot: int, length: int, computed: int, **params: Any) -> None:
    size = -(-(length + 4) // BLOCK)
    first = 1 + 20 * slot
    table.seat(
        SlotStart(
            slot=slot,
            generation=1,
            request_id=str(slot),
            params=SamplingParams(**params),
            seed=0,
            token_ids=[100 * slot + place for place in range(length)],
            num_prompt=PROMPT,
            num_computed=computed,
            block_ids=tuple([list(range(first, first + size))] * len(table.tables)),
            prompt_logprobs_from=0 if params else None,
        )
    )


@given(
    st.lists(st.tuples(st.integers(4, 24), st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=5),
    st.integers(0, 3),
)
def test_rows_are_those_of_the_batch(requests: list[tuple[int, int, int]], fill: int) -> None:
    """Row by row what `BatchBuilder` makes of the same step, in requests of one row."""
    table = SlotTable(8, 32, BLOCK, (None, 6, None))
    counts, drafts = [], dict[int, list[int]]()
    for slot, (length, unknown, ahead) in enumerate(requests):
        seat(table, slot, length, computed=length - unknown)
        counts.append(unknown + ahead)
        if ahead:
            drafts[slot] = [7] * ahead
            table.draft(slot, drafts[slot])
    slots = list(range(len(requests)))
    assert can_spread(table, slots, counts, drafts)
    total = sum(counts)
    batch, rows = spread(table, slots, counts, drafts, total + fill, num_groups=2, device="cpu")
    builder = BatchBuilder(table, "cpu", num_groups=2)
    assert rows.whole == (len(batch.logits_rows) == total)
    assert (rows.slots, rows.counts) == (slots, counts)
    for slot, count in zip(slots, counts, strict=True):
        plain, of_one = builder.build([slot], [count], drafts={k: v for k, v in drafts.items() if k == slot})
        mine = slice(rows.starts[slot], rows.starts[slot] + count)
        given_ids = batch.token_ids[mine].tolist()
        assert given_ids == (plain.token_ids.tolist() if count > 1 else [-1])
        assert batch.positions[mine].tolist() == plain.positions.tolist()
        assert batch.slots[mine].tolist() == [slot] * count
        assert [rows.computed[slot], rows.lengths[slot]] == [of_one.computed[0], of_one.lengths[0]]
        proposed = [] if rows.drafts is None else list(rows.drafts[slot])
        assert proposed == drafts.get(slot, [])
        logits = [int(row) - rows.starts[slot] for row in batch.logits_rows if mine.start <= row < mine.stop]
        assert logits == plain.logits_rows.tolist()
        for ours, theirs in zip(batch.groups, plain.groups, strict=True):
            assert ours.slot_mapping[mine].tolist() == theirs.slot_mapping.tolist()
            assert ours.seq_lens[mine].tolist() == (theirs.positions + 1).tolist()
            assert ours.seq_lens_host[mine] == ours.seq_lens[mine].tolist()
            # What a row sees of the table: the blocks up to its own, from the window's first one on.
            for row, position in enumerate(theirs.positions.tolist(), rows.starts[slot]):
                seen = ours.block_table[row, : position // BLOCK + 1].tolist()
                whole = theirs.block_table[0, : position // BLOCK + 1].tolist()
                assert all(block in (0, other) for block, other in zip(seen, whole, strict=True))
    full = batch.groups[0].block_table[:total]
    assert (full[:, 0] > 0).all()
    for group in batch.groups:
        assert len(group.query_start) == total + fill + 1
        assert group.query_lens_host == [1] * (total + fill)
        assert group.slot_mapping[total:].tolist() == [-1] * fill
        assert group.seq_lens[total:].tolist() == [0] * fill
    assert batch.slots[total:].tolist() == batch.token_ids[total:].tolist() == [-1] * fill


def test_a_window_hides_what_each_row_does_not_see() -> None:
    table = SlotTable(1, 32, BLOCK, (6,))
    seat(table, 0, length=18, computed=17)
    table.draft(0, [7, 7])
    batch, _ = spread(table, [0], [3], {0: [7, 7]}, 3, num_groups=1, device="cpu")
    # Rows 17, 18 and 19 see tokens from 12, 13 and 14 on.
    assert batch.groups[0].block_table.tolist() == [[0, 0, 0, 4, 5]] * 3
    assert batch.token_ids.tolist() == [17, 7, 7]


@pytest.mark.parametrize(
    ("length", "computed", "count", "params"),
    [
        (PROMPT, 1, 2, {}),
        (9, 4, 3, {}),
        (24, 24 - MOST_ROWS - 1, MOST_ROWS + 1, {}),
        (9, 7, 2, {"prompt_logprobs": 1}),
    ],
    ids=["a prompt", "amid what is known", "many rows", "log probabilities of a prompt"],
)
def test_others_are_not_spread(length: int, computed: int, count: int, params: dict[str, Any]) -> None:
    table = SlotTable(2, 32, BLOCK, (None,))
    seat(table, 0, length=9, computed=8)
    seat(table, 1, length=length, computed=computed, **params)
    assert can_spread(table, [0], [1], {})
    assert not can_spread(table, [0, 1], [1, count], {})
