"""From a plan's counts and the slots' state to the flattened batch of one step."""

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
        sampled: indices into `slots` of the requests that sample a token in this step.
    """

    slots: list[int]
    counts: list[int]
    starts: list[int]
    sampled: list[int]


def build_batch(
    table: SlotTable, slots: Sequence[int], counts: Sequence[int], device: str
) -> tuple[Batch, Rows]:
    """The batch that computes `counts[i]` tokens of slot `slots[i]`.

    Args:
        table: the worker's slots; only read.
        slots, counts: parallel, not empty, counts at least 1.
        device: torch device string.
    """
    slot = np.asarray(slots, dtype=np.int64)  # [S]
    count = np.asarray(counts, dtype=np.int64)  # [S]
    computed = table.computed[slot]
    # Longest first, by rows and then by context: requests that a backend pads to a common length
    # then lie beside each other, and it need not permute rows in every layer.
    order = np.argsort(-(count * table.token_ids.shape[1] + computed), kind="stable")
    slot, count, computed = slot[order], count[order], computed[order]
    query_start = np.zeros(len(slot) + 1, dtype=np.int32)
    np.cumsum(count, out=query_start[1:])
    starts = query_start[:-1]
    seq_lens = computed + count
    if len(slot) == query_start[-1]:  # decoding: a row each
        row_slot, positions = slot, computed
    else:
        row_slot = np.repeat(slot, count)  # [T]
        positions = np.arange(query_start[-1]) + np.repeat(computed - starts, count)  # [T]
    block, offset = np.divmod(positions, table.block_size)  # [T] each
    sampled = np.flatnonzero(seq_lens == table.num_tokens[slot])
    lengths = seq_lens.tolist()
    rows = count.tolist()
    max_seq_len = max(lengths)
    width = -(-max_seq_len // table.block_size)

    query_start_on_device = _on(device, query_start)
    seq_lens_on_device = _on(device, seq_lens.astype(np.int32))
    positions_on_device = _on(device, positions)
    groups = []
    for blocks, window in zip(table.tables, table.windows, strict=True):
        block_table = blocks[slot, :width]  # [S, B] int32, a copy
        if window is not None:
            # What no row of this step sees may belong to somebody else by now: nobody is to read it.
            first = np.maximum(computed - window + 1, 0) // table.block_size  # [S]
            block_table[np.arange(width) < first[:, None]] = 0
        slot_mapping = blocks[row_slot, block] * np.int64(table.block_size) + offset  # [T]
        groups.append(
            AttentionBatch(
                query_start=query_start_on_device,
                seq_lens=seq_lens_on_device,
                positions=positions_on_device,
                block_table=_on(device, block_table),
                slot_mapping=_on(device, slot_mapping),
                max_query_len=max(rows),
                max_seq_len=max_seq_len,
                query_lens_host=rows,
                seq_lens_host=lengths,
            )
        )
    batch = Batch(
        token_ids=_on(device, table.token_ids[row_slot, positions].astype(np.int64)),
        positions=positions_on_device,
        slots=_on(device, slot),
        logits_rows=_on(device, (query_start[1:] - 1)[sampled].astype(np.int64)),
        groups=tuple(groups),
    )
    return batch, Rows(slot.tolist(), rows, starts.tolist(), sampled.tolist())


def _on(device: str, array: NDArray[np.integer]) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.to(device, non_blocking=True)
