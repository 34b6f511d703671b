"""From a plan's counts and the slots' state to the flattened batch of one step.

Beside a real model each small operation costs some microseconds, since a step's weights have driven all else
out of the caches: what stays the same from step to step is kept, and the rest is few operations for all
requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from quire.contracts import AttentionBatch, Batch
from quire.runtime.slots import SlotTable


@dataclass(frozen=True, slots=True)
class Rows:
    """Where each request of a step lies in its flattened rows.

    Attributes:
        slots: request -> slot.
        counts: request -> rows in this step.
        starts: request -> first row.
        sampled: slots of the requests that sample a token in this step, in the order of `Batch.logits_rows`.
        lengths: parallel to `sampled`, their tokens so far: the position of the token that is sampled.
        whole: `Batch.logits_rows` are all rows of the batch, in order.
    """

    slots: list[int]
    counts: list[int]
    starts: list[int]
    sampled: list[int]
    lengths: list[int]
    whole: bool


@dataclass(frozen=True, slots=True)
class _Arrangement:
    """Who has which rows: the same as long as the same requests compute the same numbers of tokens.

    Attributes:
        key: the slots and counts that were asked for, and how many requests had been seated by then.
        slot, count: `[S]` int64, by request.
        row_slot: `[T]` int64, by row.
        row: `[T]` int64, the row's number among its request's; None where each request has one row.
        query_start, slots_on_device: as in the batch.
        last_rows: `[S]` int64 on the device, each request's last row.
        slots, counts, starts: as in `Rows`.
    """

    key: tuple[list[int], list[int], int]
    slot: NDArray[np.int64]
    count: NDArray[np.int64]
    row_slot: NDArray[np.int64]
    row: NDArray[np.int64] | None
    query_start: torch.Tensor
    slots_on_device: torch.Tensor
    last_rows: torch.Tensor
    slots: list[int]
    counts: list[int]
    starts: list[int]


class BatchBuilder:
    """Builds the batches of one worker. They share tensors with earlier ones: nobody is to write to them."""

    def __init__(self, table: SlotTable, device: str) -> None:
        """Start without anything kept.

        Args:
            table: the worker's slots; only read.
            device: torch device string.
        """
        self._table = table
        self._device = device
        self._last: _Arrangement | None = None

    def build(self, slots: Sequence[int], counts: Sequence[int]) -> tuple[Batch, Rows]:
        """The batch that computes `counts[i]` tokens of slot `slots[i]`.

        Args:
            slots, counts: parallel, not empty, counts at least 1.
        """
        table = self._table
        who = self._arrange(slots, counts)
        seq_lens = table.computed[who.slot] + who.count  # [S]
        positions = table.computed[who.row_slot]  # [T], a copy
        if who.row is not None:
            positions += who.row
        block, offset = np.divmod(positions, table.block_size)  # [T] each
        lengths: list[int] = seq_lens.tolist()
        max_seq_len = max(lengths)

        seq_lens_on_device = self._put(seq_lens.astype(np.int32))
        positions_on_device = self._put(positions)
        groups = []
        for blocks, window in zip(table.tables, table.windows, strict=True):
            slot_mapping = blocks[who.row_slot, block] * np.int64(table.block_size) + offset  # [T]
            groups.append(
                AttentionBatch(
                    query_start=who.query_start,
                    seq_lens=seq_lens_on_device,
                    positions=positions_on_device,
                    block_table=self._put(self._block_table(blocks, window, who, seq_lens, max_seq_len)),
                    slot_mapping=self._put(slot_mapping),
                    max_query_len=who.counts[0],  # the longest comes first
                    max_seq_len=max_seq_len,
                    query_lens_host=who.counts,
                    seq_lens_host=lengths,
                )
            )
        known: list[int] = table.num_tokens[who.slot].tolist()
        sampled, sampled_lengths, logits_rows = who.slots, lengths, who.last_rows
        if lengths != known:
            places = [i for i, length in enumerate(lengths) if length == known[i]]
            sampled, sampled_lengths = [who.slots[i] for i in places], [lengths[i] for i in places]
            logits_rows = self._put(np.asarray([who.starts[i] + who.counts[i] - 1 for i in places], np.int64))
        batch = Batch(
            token_ids=self._put(table.token_ids[who.row_slot, positions].astype(np.int64)),
            positions=positions_on_device,
            slots=who.slots_on_device,
            logits_rows=logits_rows,
            groups=tuple(groups),
        )
        whole = len(sampled) == len(positions)
        return batch, Rows(who.slots, who.counts, who.starts, sampled, sampled_lengths, whole)

    def _arrange(self, slots: Sequence[int], counts: Sequence[int]) -> _Arrangement:
        """Order the requests; as they were last time if these are the same."""
        last, key = self._last, (list(slots), list(counts), self._table.num_seated)
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
        self._last = _Arrangement(
            key=key,
            slot=slot,
            count=count,
            row_slot=slot if decoding else np.repeat(slot, count),
            row=None if decoding else np.arange(num_rows) - np.repeat(starts, count),
            query_start=self._put(query_start),
            slots_on_device=self._put(slot),
            last_rows=self._put(query_start[1:].astype(np.int64) - 1),
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

    def _put(self, array: NDArray[np.integer]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._device == "cpu" else tensor.to(self._device, non_blocking=True)
