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
    # Longest first, by rows and then by context: requests that a backend pads to a common length
    # then lie beside each other, and it need not permute rows in every layer.
    order = np.lexsort((-table.computed[slot], -count))
    slot, count = slot[order], count[order]
    ends = np.cumsum(count)
    starts = ends - count
    computed = table.computed[slot]
    seq_lens = computed + count
    row_slot = np.repeat(slot, count)  # [T]
    positions = np.arange(ends[-1]) + np.repeat(computed - starts, count)  # [T]
    token_ids = table.token_ids[row_slot, positions]  # [T]
    sampled = np.flatnonzero(seq_lens == table.num_tokens[slot])
    query_start = np.concatenate(([0], ends))
    lengths = seq_lens.tolist()
    max_seq_len = int(seq_lens.max())

    positions_on_device = _to(device, positions, torch.int64)
    groups = []
    for blocks, window in zip(table.tables, table.windows, strict=True):
        width = -(-max_seq_len // table.block_size)
        block_table = blocks[slot, :width]  # [S, B], a copy
        if window is not None:
            # What no row of this step sees may belong to somebody else by now: nobody is to read it.
            first = np.maximum(computed - window + 1, 0) // table.block_size  # [S]
            block_table[np.arange(width) < first[:, None]] = 0
        block_of_row = blocks[row_slot, positions // table.block_size].astype(np.int64)
        groups.append(
            AttentionBatch(
                query_start=_to(device, query_start, torch.int32),
                seq_lens=_to(device, seq_lens, torch.int32),
                positions=positions_on_device,
                block_table=_to(device, block_table, torch.int32),
                slot_mapping=_to(
                    device, block_of_row * table.block_size + positions % table.block_size, torch.int64
                ),
                max_query_len=int(count.max()),
                max_seq_len=max_seq_len,
                query_lens_host=count.tolist(),
                seq_lens_host=lengths,
            )
        )
    batch = Batch(
        token_ids=_to(device, token_ids, torch.int64),
        positions=positions_on_device,
        slots=_to(device, slot, torch.int64),
        logits_rows=_to(device, (ends - 1)[sampled], torch.int64),
        groups=tuple(groups),
    )
    return batch, Rows(slot.tolist(), count.tolist(), starts.tolist(), sampled.tolist())


def _to(device: str, array: NDArray[np.integer], dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype, non_blocking=True)
