from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.contracts import Batch
from quire.plan import SlotStart, StepPlan
from quire.runtime import batching
from quire.runtime.batching import BatchBuilder
from quire.runtime.slots import SlotTable
from quire.sampling_params import SamplingParams

BLOCK = 4


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
    batch, rows = BatchBuilder(table, "cpu").build([0, 1], [3, 1])
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
    BatchBuilder(table, "cpu").build([0], [1])
    table.extend(StepPlan(1, new_blocks=[(0, ([4],))]))
    assert table.tables[0][0, :4].tolist() == [1, 2, 3, 4]


def plainly(table: SlotTable, slots: list[int], counts: list[int]) -> dict[str, list[object]]:
    """What a batch of one request each says, put together by request; written by numpy."""
    alike: dict[str, list[object]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "MOST_REQUESTS", 0)
        for slot, count in zip(slots, counts, strict=True):
            batch, rows = BatchBuilder(table, "cpu").build([slot], [count])
            alike[str(slot)] = [*contents(batch, 0, [0, count]), rows.sampled, rows.lengths]
    return alike


def contents(batch: Batch, request: int, starts: list[int]) -> list[object]:
    """A request's part of a batch; of its block table what its tokens lie in."""
    mine = slice(starts[request], starts[request + 1])
    parts: list[object] = [batch.token_ids[mine].tolist(), batch.positions[mine].tolist()]
    parts.append(int(batch.slots[request]))
    for group in batch.groups:
        blocks = group.block_table[request, : -(-group.seq_lens_host[request] // BLOCK)].tolist()
        parts += [blocks, group.slot_mapping[mine].tolist(), int(group.seq_lens[request])]
        parts += [group.seq_lens_host[request], group.query_lens_host[request]]
    return parts


@given(st.data(), st.sampled_from([(None, 6), (None, None)]), st.sampled_from([0, 7]))
def test_a_batch_is_its_requests_whatever_came_before(
    data: st.DataObject, windows: tuple[int | None, ...], fill_to: int
) -> None:
    """Steps in a row by one builder, which keeps things between them: a request's part is as it is alone."""
    num_slots, limit = 4, 40
    table = SlotTable(num_slots, limit, BLOCK, windows)
    builder = BatchBuilder(table, "cpu")
    everybody = data.draw(st.booleans())  # then the same requests decode for some steps
    for step in range(8):
        for slot in range(num_slots):
            if slot not in table.info or data.draw(st.integers(0, 9)) == 0 or table.num_tokens[slot] >= limit:
                length = data.draw(st.integers(1, 12))
                table.leave(slot)
                blocks = [*range(1, 1 + -(-length // BLOCK))]
                seat(
                    table,
                    slot,
                    length,
                    length - 1 if everybody else data.draw(st.integers(0, length - 1)),
                    blocks,
                )
        slots = [*range(num_slots)]
        if not everybody:
            slots = data.draw(st.lists(st.integers(0, num_slots - 1), min_size=1, unique=True))
        missing = [int(table.num_tokens[slot] - table.computed[slot]) for slot in slots]
        counts = [data.draw(st.integers(1, most)) for most in missing]
        new = []
        for slot, count in zip(slots, counts, strict=True):
            lacking = -(-int(table.computed[slot] + count) // BLOCK) - int(table.num_blocks[0, slot])
            if lacking > 0:
                new.append((slot, tuple([20 + step * num_slots + slot] * lacking for _ in windows)))
        table.extend(StepPlan(step, new_blocks=new))
        fill = max(fill_to - len(slots), 0) if max(counts) == 1 else 0
        batch, rows = builder.build(slots, counts, fill_to if fill else 0)
        starts = [*rows.starts, len(batch.token_ids) - fill]
        alone = plainly(table, slots, counts)
        assert sorted(rows.slots) == sorted(slots)
        assert batch.groups[0].query_start.tolist()[: len(starts)] == starts
        for group in batch.groups:
            empty = [group.seq_lens, group.positions, group.block_table.amax(1), batch.token_ids]
            assert [one[len(one) - fill :].tolist() for one in empty] == [[0] * fill] * 4
            assert group.slot_mapping[len(group.slot_mapping) - fill :].tolist() == [-1] * fill
        assert batch.groups[0].max_query_len == max(counts)
        assert batch.groups[0].max_seq_len == max(batch.groups[0].seq_lens_host)
        order = list(zip(rows.counts, rows.computed, strict=True))
        assert order == sorted(order, reverse=True)
        sampled: list[tuple[int, int]] = list(zip(rows.sampled, rows.lengths, strict=True))
        for request, slot in enumerate(rows.slots):
            own = [pair for pair in sampled if pair[0] == slot]
            expected = [*contents(batch, request, starts), [i for i, _ in own], [n for _, n in own]]
            assert expected == alone[str(slot)]
        last = {slot: starts[i + 1] - 1 for i, slot in enumerate(rows.slots)}
        assert batch.logits_rows.tolist() == [last[slot] for slot in rows.sampled]
        assert rows.whole == (batch.logits_rows.tolist() == [*range(starts[-1])])
        table.advance(rows.slots, rows.computed)
        table.append(rows.sampled, rows.lengths, [data.draw(st.integers(0, 99)) for _ in rows.sampled])
