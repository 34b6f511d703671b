"""From a plan's counts and the slots' state to the flattened batch of one step.

Beside a real model each small operation costs some microseconds, since a step's weights have driven all else
out of the caches: what stays the same from step to step is kept, and the rest is few operations for all
requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quire.contracts import AttentionBatch, Batch
from quire.ops.upload import upload
from quire.runtime.slots import UNKNOWN, SlotTable


@dataclass(frozen=True, slots=True)
class Rows:
    """Where each request of a step lies in its flattened rows.

    Attributes:
        slots: request -> slot.
        counts: request -> rows in this step.
        starts: request -> first row.
        slot, computed: request -> slot and tokens in the cache after this step, `[S]` int64 each.
        sampled: slots of the requests that sample a token in this step, in the order of `Batch.logits_rows`.
        lengths: parallel to `sampled`, their tokens so far: the position of the token that is sampled.
        sampled_slot, sampled_length: the same two as arrays, int64.
        whole: `Batch.logits_rows` are all rows of the batch, in order.
    """

    slots: list[int]
    counts: list[int]
    starts: list[int]
    slot: NDArray[np.int64]
    computed: NDArray[np.int64]
    sampled: list[int]
    lengths: list[int]
    sampled_slot: NDArray[np.int64]
    sampled_length: NDArray[np.int64]
    whole: bool


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """Who has which rows: the same as long as the same requests compute the same numbers of tokens.

    Attributes:
        key: the slots, counts and filling that were asked for, and how many requests had been seated by then.
        slot, count: `[S]` int64, by request.
        row_slot: `[T]` int64, by row.
        row: `[T]` int64, the row's number among its request's; None where each request has one row.
        query_start, slots_on_device: as in the batch.
        last_row, last_rows: `[S]` int64 each request's last row, on the host and on the device.
        slots, counts, starts: as in `Rows`.
    """

    key: tuple[list[int], list[int], int, int]
    slot: NDArray[np.int64]
    count: NDArray[np.int64]
    row_slot: NDArray[np.int64]
    row: NDArray[np.int64] | None
    query_start: torch.Tensor
    slots_on_device: torch.Tensor
    last_row: NDArray[np.int64]
    last_rows: torch.Tensor
    slots: list[int]
    counts: list[int]
    starts: list[int]


class BatchBuilder:
    """Builds the batches of one worker. They share tensors with earlier ones: nobody is to write to them."""

    def __init__(self, table: SlotTable, device: str, last_ids: torch.Tensor | None = None) -> None:
        """Start without anything kept.

        Args:
            table: the worker's slots; only read.
            device: torch device string.
            last_ids: `[slots]` int64 on the device: each slot's last token, where the host may not know it
                yet. None where it always does.
        """
        self._table = table
        self._device = torch.device(device)
        self._last_ids = last_ids
        self._last: _Arrangement | None = None

    def build(self, slots: Sequence[int], counts: Sequence[int], fill_to: int = 0) -> tuple[Batch, Rows]:
        """The batch that computes `counts[i]` tokens of slot `slots[i]`.

        Args:
            slots, counts: parallel, not empty, counts at least 1.
            fill_to: of a captured step, which reads its tokens by slot itself: the rows that it has. Requests
                of one row are added at the end, which belong to nobody (their slot is -1) and write nothing,
                until there are so many. `Rows` knows nothing of them.
        """
        table = self._table
        who = self._arrange(slots, counts, fill_to)
        fill = max(fill_to - len(who.slots), 0)
        computed = positions = table.computed[who.slot]  # [S], a copy
        if who.row is not None:
            positions = table.computed[who.row_slot] + who.row  # [T]
        seq_lens = computed + who.count  # [S]
        block, offset = np.divmod(positions, table.block_size)  # [T] each
        lengths: list[int] = seq_lens.tolist()
        max_seq_len = max(lengths)

        sampled, sampled_lengths, places = who.slots, lengths, None
        sampled_slot, sampled_length = who.slot, seq_lens
        last = table.num_tokens[who.slot] == seq_lens  # [S]
        if not last.all():
            places = np.flatnonzero(last)
            sampled_slot, sampled_length = who.slot[places], seq_lens[places]
            sampled, sampled_lengths = sampled_slot.tolist(), sampled_length.tolist()

        # One way to the device for all of them.
        arrays: list[NDArray[Any]] = [
            seq_lens.astype(np.int32),
            positions,
            table.token_ids[who.row_slot, positions].astype(np.int64),
        ]
        for blocks, window in zip(table.tables, table.windows, strict=True):
            arrays.append(self._block_table(blocks, window, who, seq_lens, max_seq_len))
            arrays.append(blocks[who.row_slot, block] * np.int64(table.block_size) + offset)  # [T]
        if places is not None:
            arrays.append(who.last_row[places])
        if fill:
            # Each begins with the requests, or with their rows, and block tables and slot mappings alternate.
            ahead = 3 + 2 * len(table.tables)
            empty = [0, 0, 0] + [0, -1] * len(table.tables)
            arrays[:ahead] = [_filled(one, fill, value) for one, value in zip(arrays, empty, strict=False)]
        seq_lens_there, positions_there, token_ids, *rest = self._put(*arrays)
        groups = tuple(
            AttentionBatch(
                query_start=who.query_start,
                seq_lens=seq_lens_there,
                positions=positions_there,
                block_table=rest[2 * group],
                slot_mapping=rest[2 * group + 1],
                max_query_len=who.counts[0],  # the longest comes first
                max_seq_len=max_seq_len,
                query_lens_host=who.counts + [1] * fill,
                seq_lens_host=lengths + [0] * fill,
            )
            for group in range(len(table.tables))
        )
        batch = Batch(
            token_ids=token_ids if self._last_ids is None or fill_to else self._drawn(token_ids),
            positions=positions_there,
            slots=who.slots_on_device,
            logits_rows=who.last_rows if places is None else rest[-1],
            groups=groups,
        )
        rows = Rows(
            slots=who.slots,
            counts=who.counts,
            starts=who.starts,
            slot=who.slot,
            computed=seq_lens,
            sampled=sampled,
            lengths=sampled_lengths,
            sampled_slot=sampled_slot,
            sampled_length=sampled_length,
            whole=len(sampled) == len(positions),
        )
        return batch, rows

    def _arrange(self, slots: Sequence[int], counts: Sequence[int], fill_to: int) -> _Arrangement:
        """Order the requests; as they were last time if these are the same."""
        last, key = self._last, (list(slots), list(counts), fill_to, self._table.num_seated)
        if last is not None and last.key == key:
            return last
        slot = np.asarray(slots, dtype=np.int64)  # [S]
        count = np.asarray(counts, dtype=np.int64)  # [S]
        # Longest first, by rows and then by context: requests that a backend pads to a common length
        # then lie beside each other, and it need not permute rows in every layer.
        order = np.argsort(
            -(count * self._table.token_ids.shape[1] + self._table.computed[slot]), kind="stable"
        )
        slot, count = slot[order], count[order]
        query_start = np.zeros(len(slot) + 1, dtype=np.int32)
        np.cumsum(count, out=query_start[1:])
        starts, num_rows = query_start[:-1], int(query_start[-1])
        decoding = len(slot) == num_rows  # a row each
        fill = np.arange(1, fill_to - len(slot) + 1, dtype=np.int32)  # empty where there is nothing to fill
        last_row = query_start[1:].astype(np.int64) - 1
        query_start_there, slots_there, last_rows = self._put(
            np.concatenate((query_start, num_rows + fill)), _filled(slot, len(fill), -1), last_row
        )
        self._last = _Arrangement(
            key=key,
            slot=slot,
            count=count,
            row_slot=slot if decoding else np.repeat(slot, count),
            row=None if decoding else np.arange(num_rows) - np.repeat(starts, count),
            query_start=query_start_there,
            slots_on_device=slots_there,
            last_row=last_row,
            last_rows=last_rows,
            slots=slot.tolist(),
            counts=count.tolist(),
            starts=starts.tolist(),
        )
        return self._last

    def _block_table(
        self,
        blocks: NDArray[np.int32],
        window: int | None,
        who: _Arrangement,
        seq_lens: NDArray[np.int64],
        max_seq_len: int,
    ) -> NDArray[np.int32]:
        """`[S, B]`, a copy."""
        width = -(-max_seq_len // self._table.block_size)
        block_table = blocks[who.slot, :width]
        if window is not None:
            # What no row of this step sees may belong to somebody else by now: nobody is to read it.
            first = np.maximum(seq_lens - who.count - window + 1, 0) // self._table.block_size  # [S]
            block_table[np.arange(width) < first[:, None]] = 0
        return block_table

    def _drawn(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[T]`: with what the host does not know yet, from where the step before has left it."""
        assert self._last_ids is not None
        slots = (UNKNOWN - token_ids).clamp_(min=0)
        return torch.where(token_ids < 0, self._last_ids[slots], token_ids)

    def _put(self, *arrays: NDArray[Any]) -> list[torch.Tensor]:
        return upload(self._device, *map(torch.from_numpy, arrays))


def _filled(array: NDArray[Any], count: int, value: int) -> NDArray[Any]:
    """With `count` more entries of one value along the first axis."""
    return np.concatenate((array, np.full((count, *array.shape[1:]), value, array.dtype)))
