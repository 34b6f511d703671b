"""Rows of requests that decode, each as a request of its own: so a graph of single rows runs drafts, too.

A row attends to what lies before it, and a layer writes the K and V of all rows before any of them attends:
to be several requests of one block table is to be several rows of one request. What it costs is that each
row reads its context by itself, which is little beside launching a step's kernels one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quire.contracts import AttentionBatch, Batch
from quire.ops.upload import upload
from quire.runtime.batching import Rows
from quire.runtime.slots import SlotTable
from quire.runtime.staging import filled

MOST_ROWS = 16
"""Of one request: with more, to read a long context once a row costs more than launches do."""


def can_spread(
    table: SlotTable, slots: Sequence[int], counts: Sequence[int], drafts: Mapping[int, Sequence[int]]
) -> bool:
    """Whether each decodes, and computes all that is known of it, in few rows: none is amid its prompt."""
    if max(counts) > MOST_ROWS or not table.with_prompt_logprobs.isdisjoint(slots):
        return False
    known, computed, prompt = table.num_tokens_view, table.computed_view, table.num_prompt.data
    return all(
        known[slot] > prompt[slot] and computed[slot] + count == known[slot] + len(drafts.get(slot, ()))
        for slot, count in zip(slots, counts, strict=True)
    )


def spread(
    table: SlotTable,
    slots: Sequence[int],
    counts: Sequence[int],
    drafts: Mapping[int, Sequence[int]],
    size: int,
    *,
    num_groups: int,
    device: str,
) -> tuple[Batch, Rows]:
    """The batch that computes `counts[i]` tokens of slot `slots[i]`, in requests of one row.

    Args:
        table: only read.
        slots, counts: as `can_spread` allows.
        drafts: by slot, the tokens behind what is known, which the counts cover.
        size: requests to fill up to, by such as belong to nobody.
        num_groups: KV groups, the first of the table's.
        device: torch device string.

    Returns:
        The batch, whose `token_ids` are negative where a row continues with its slot's last token: those of
        slots with one row, which the host may not know yet. And whose rows are whose: `Rows.starts` and
        `Batch.logits_rows` count the batch's rows, without those that fill it up.
    """
    slot, count = np.asarray(slots, dtype=np.int64), np.asarray(counts, dtype=np.int64)  # [S] each
    ends = np.cumsum(count)
    starts, num_rows = ends - count, int(ends[-1])
    of_row = np.repeat(slot, count)  # [T]
    computed = table.computed[slot]
    positions = np.repeat(computed - starts, count) + np.arange(num_rows)
    token_ids = np.where(np.repeat(count, count) > 1, table.token_ids[of_row, positions], -1)
    block, offset = np.divmod(positions, table.block_size)
    lengths: list[int] = (positions + 1).tolist()
    width, places = -(-max(lengths) // table.block_size), np.arange(num_rows)
    per_group: list[NDArray[Any]] = []
    for group in range(num_groups):
        blocks, window = table.tables[group], table.windows[group]
        mine = blocks[of_row, :width]
        mapping = mine[places, block] * np.int64(table.block_size) + offset
        if window is not None:  # as in `BatchBuilder`
            mine[np.arange(width) < (np.maximum(positions - window + 1, 0) // table.block_size)[:, None]] = 0
        per_group += [filled(mine, size, 0), filled(mapping, size, -1)]

    ahead = [drafts.get(one, ()) for one in slots]
    sampled_rows = [1 + len(ids) for ids in ahead]
    last_rows = np.concatenate(
        [np.arange(end - rows, end) for end, rows in zip(ends.tolist(), sampled_rows, strict=True)]
    )
    arrays = (
        np.arange(size + 1, dtype=np.int32),
        filled((positions + 1).astype(np.int32), size, 0),
        filled(positions, size, 0),
        filled(token_ids.astype(np.int64), size, -1),
        filled(of_row, size, -1),
        last_rows,
        *per_group,
    )
    there = upload(torch.device(device), *map(torch.from_numpy, arrays))
    query_start, seq_lens, positions_there, ids_there, slots_there, logits_rows, *rest = there
    groups = tuple(
        AttentionBatch(
            query_start=query_start,
            seq_lens=seq_lens,
            positions=positions_there,
            block_table=rest[2 * group],
            slot_mapping=rest[2 * group + 1],
            max_query_len=1,
            max_seq_len=max(lengths),
            query_lens_host=[1] * size,
            seq_lens_host=lengths + [0] * (size - num_rows),
        )
        for group in range(num_groups)
    )
    rows = Rows(
        slots=list(slots),
        counts=list(counts),
        starts=starts.tolist(),
        computed=(computed + count).tolist(),
        sampled=list(slots),
        lengths=[table.num_tokens_view[one] for one in slots],
        drafts=ahead if drafts else None,
        whole=len(last_rows) == num_rows,
    )
    return Batch(ids_there, positions_there, slots_there, logits_rows, groups), rows
