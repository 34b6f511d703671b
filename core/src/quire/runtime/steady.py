"""The batch of a step in which the same requests compute one token each: nearly every step of an engine.

It is written element by element. For up to some hundred requests two dozen operations of numpy take longer,
once a step's weights have driven their code out of the caches: a batch of 32 then takes 119 us by numpy and
81 by this, of 64 125 and 100, of 128 137 and 145.
"""

from __future__ import annotations

from quire.runtime.slots import SlotTable
from quire.runtime.staging import Staging

MOST_REQUESTS = 96
"""With more, numpy is quicker."""


class SteadyRows:
    """Writes the rows of some requests, one each, into a staging of their own."""

    def __init__(self, table: SlotTable, staging: Staging, slots: list[int]) -> None:
        """Keep them.

        Args:
            table: the worker's slots, without sliding windows; only read.
            staging: where rows are written, in this order.
            slots: request -> slot.
        """
        self._table, self._staging, self._slots = table, staging, slots
        self._row = {slot: row for row, slot in enumerate(slots)}
        self._version, self._width = -1, 0

    def write(self) -> list[int]:
        """Write everything.

        Returns:
            Tokens of each request with the one that is computed.
        """
        table, staging, slots = self._table, self._staging, self._slots
        computed, ids, size = table.computed_view, table.token_ids_view, table.block_size
        seq_lens, positions, token_ids = staging.seq_lens.data, staging.positions.data, staging.token_ids.data
        lengths = []
        for row, slot in enumerate(slots):
            position = computed[slot]
            lengths.append(position + 1)
            seq_lens[row] = position + 1
            positions[row] = position
            token_ids[row] = ids[slot, position]
        for blocks, mapping in zip(table.table_views, staging.slot_mappings, strict=True):
            target = mapping.data
            for row, slot in enumerate(slots):
                block, offset = divmod(positions[row], size)
                target[row] = blocks[slot, block] * size + offset
        self._write_block_tables(-(-max(lengths) // size))
        return lengths

    def _write_block_tables(self, width: int) -> None:
        """As the slots' are, of which often a few have a block more than in the last step."""
        table, staging = self._table, self._staging
        if self._width == width and self._version == table.version - 1:
            for group, slot, first, ids in table.grown:
                row = self._row.get(slot)
                if row is not None:
                    target = staging.block_table(group, width).data
                    for place, block in enumerate(ids[: max(width - first, 0)], start=first):
                        target[row, place] = block
        elif self._width != width or self._version != table.version:
            for group, blocks in enumerate(table.tables):
                staging.block_table(group, width)[:] = blocks[self._slots, :width]
        self._width, self._version = width, table.version
