from __future__ import annotations

from quire.plan import SlotStart, StepPlan
from quire.runtime.batching import build_batch
from quire.runtime.slots import SlotTable
from quire.sampling import SamplingParams


def seat(table: SlotTable, slot: int, length: int, computed: int, blocks: list[int]) -> None:
    start = SlotStart(
        slot=slot,
        generation=1,
        request_id=str(slot),
        params=SamplingParams(),
        seed=0,
        token_ids=list(range(length)),
        num_prompt=length,
        num_computed=computed,
        block_ids=tuple(list(blocks) for _ in table.tables),
    )
    table.seat(start)


def test_blocks_out_of_a_window_are_hidden_from_the_backend() -> None:
    table = SlotTable(2, 32, 4, (None, 6, 1))
    seat(table, 0, length=19, computed=16, blocks=[1, 2, 3, 4, 5])
    seat(table, 1, length=5, computed=4, blocks=[6, 7])
    batch, rows = build_batch(table, [0, 1], [3, 1], "cpu")
    assert rows.slots == [0, 1]
    tables = [group.block_table.tolist() for group in batch.groups]
    # Row 16 sees tokens 11 to 16 through a window of 6, and only itself through one of 1.
    assert tables[0] == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert tables[1] == [[0, 0, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert tables[2] == [[0, 0, 0, 0, 5], [0, 7, 0, 0, 0]]
    for group in batch.groups:
        assert group.slot_mapping.tolist() == [20, 21, 22, 28]


def test_hiding_changes_nothing_that_is_kept() -> None:
    table = SlotTable(1, 32, 4, (2,))
    seat(table, 0, length=9, computed=8, blocks=[1, 2, 3])
    build_batch(table, [0], [1], "cpu")
    table.extend(StepPlan(1, new_blocks=[(0, ([4],))]))
    assert table.tables[0][0, :4].tolist() == [1, 2, 3, 4]
