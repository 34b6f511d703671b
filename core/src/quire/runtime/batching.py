"""From a plan's counts and the slots' state to the flattened batch of one step.

Beside a real model each small operation costs some microseconds, since a step's weights have driven all else
out of the caches: what stays the same from step to step is kept, and the rest is few operations for all
requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import ne
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quire.contracts import AttentionBatch, Batch
from quire.ops.upload import upload
from quire.runtime.slots import UNKNOWN, SlotTable
from quire.runtime.staging import Staging
from quire.runtime.steady import MOST_REQUESTS, SteadyRows


class Rows(NamedTuple):
    """Where each request of a step lies in its flattened rows. A tuple, for it is made in every step.

    Attributes:
        slots: request -> slot.
        counts: request -> rows in this step.
        starts: request -> first row.
        computed: request -> tokens in the cache after this step.
        sampled: slots of the requests that sample in this step, in the order of `Batch.logits_rows`.
        lengths: parallel to `sampled`, their tokens so far: the position of the first token that is sampled.
        drafts: parallel to `sampled`, the drafts of each: it has one row of logits more than that. None where
            nobody has any.
        whole: `Batch.logits_rows` are all rows of the batch, in order.
    """

    slots: list[int]
    counts: list[int]
    starts: list[int]
    computed: list[int]
    sampled: list[int]
    lengths: list[int]
    drafts: list[Sequence[int]] | None
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
        last_row, last_rows: `[S]` int64, each request's last row, on the host and on the device.
        staging: the batch's other tensors.
        steady: what writes them, if each request has one row; None where `BatchBuilder` does.
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
    staging: Staging
    steady: SteadyRows | None
    slots: list[int]
    counts: list[int]
    starts: list[int]


class BatchBuilder:
    """Builds the batches of one worker. They share memory: a batch is good until the next one is built.

    Nobody is to write to them.
    """

    def __init__(
        self,
        table: SlotTable,
        device: str,
        last_ids: torch.Tensor | None = None,
        *,
        num_groups: int | None = None,
    ) -> None:
        """Start without anything kept.

        Args:
            table: the worker's slots; only read.
            device: torch device string.
            last_ids: `[slots]` int64 on the device: each slot's last token, where the host may not know it
                yet. None where it always does.
            num_groups: KV groups that batches are for, the first of the table's; None for all.
        """
        self._table = table
        self._device = torch.device(device)
        self._last_ids = last_ids
        self._num_groups = len(table.tables) if num_groups is None else num_groups
        self._last: _Arrangement | None = None

    def build(
        self,
        slots: Sequence[int],
        counts: Sequence[int],
        fill_to: int = 0,
        drafts: Mapping[int, Sequence[int]] | None = None,
    ) -> tuple[Batch, Rows]:
        """The batch that computes `counts[i]` tokens of slot `slots[i]`.

        Args:
            slots, counts: parallel, not empty, counts at least 1.
            drafts: by slot, tokens that are computed though they are only proposed; the counts cover them,
                and the slot table has them behind what is known.
            fill_to: of a captured step, which reads its tokens by slot itself: the rows that it has. Requests
                of one row are added at the end, which belong to nobody (their slot is -1) and write nothing,
                until there are so many. `Rows` knows nothing of them.
        """
        table = self._table
        who = self._arrange(slots, counts, fill_to)
        fill = max(fill_to - len(who.slots), 0)
        lengths = self._write(who) if who.steady is None else who.steady.write()
        computed, query_lens, max_seq_len = lengths, who.counts, max(lengths)
        known = table.num_tokens_view
        sampled, sampled_lengths, ahead, last_rows = who.slots, lengths, None, None
        if any(map(ne, lengths, map(known.__getitem__, who.slots))):
            sampled, ahead, last_rows = self._sampling(who, lengths, drafts or {})
            sampled_lengths = [known[slot] for slot in sampled]

        # One way to the device for all of them.
        seq_lens_there, positions_there, token_ids, *rest = who.staging.upload(
            self._device, *(() if last_rows is None else (last_rows,))
        )
        if fill:
            lengths, query_lens = lengths + [0] * fill, who.counts + [1] * fill
        groups = tuple(
            AttentionBatch(
                query_start=who.query_start,
                seq_lens=seq_lens_there,
                positions=positions_there,
                block_table=rest[2 * group],
                slot_mapping=rest[2 * group + 1],
                max_query_len=who.counts[0],  # the longest comes first
                max_seq_len=max_seq_len,
                query_lens_host=query_lens,
                seq_lens_host=lengths,
            )
            for group in range(self._num_groups)
        )
        batch = Batch(
            token_ids=token_ids if self._last_ids is None or fill_to else self._drawn(token_ids),
            positions=positions_there,
            slots=who.slots_on_device,
            logits_rows=who.last_rows if last_rows is None else rest[-1],
            groups=groups,
        )
        rows = Rows(
            slots=who.slots,
            counts=who.counts,
            starts=who.starts,
            computed=computed,
            sampled=sampled,
            lengths=sampled_lengths,
            drafts=ahead,
            whole=last_rows is None and who.row is None,
        )
        return batch, rows

    def _sampling(
        self, who: _Arrangement, lengths: list[int], drafts: Mapping[int, Sequence[int]]
    ) -> tuple[list[int], list[Sequence[int]] | None, NDArray[np.int64]]:
        """`Rows.sampled` and `Rows.drafts`, and `Batch.logits_rows` where not all sample in one row."""
        known = self._table.num_tokens_view
        ends = [known[slot] + len(drafts.get(slot, ())) for slot in who.slots]
        places = [i for i, length in enumerate(lengths) if length == ends[i]]
        sampled, last_rows = [who.slots[i] for i in places], who.last_row[places]
        if not drafts:
            return sampled, None, last_rows
        ahead = [drafts.get(slot, ()) for slot in sampled]
        rows = [np.arange(last - len(ids), last + 1) for last, ids in zip(last_rows, ahead, strict=True)]
        return sampled, ahead, np.concatenate(rows) if rows else last_rows

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
            np.concatenate((query_start, num_rows + fill)),
            np.concatenate((slot, np.full(len(fill), -1))),
            last_row,
        )
        staging = Staging(len(slot), num_rows, self._num_groups, len(fill))
        steady = None
        if decoding and len(slot) <= MOST_REQUESTS and not any(self._table.windows):
            steady = SteadyRows(self._table, staging, slot.tolist())
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
            staging=staging,
            steady=steady,
            slots=slot.tolist(),
            counts=count.tolist(),
            starts=starts.tolist(),
        )
        return self._last

    def _write(self, who: _Arrangement) -> list[int]:
        """Write the staging, whatever its rows.

        Returns:
            Tokens of each request with those that are computed.
        """
        table, staging = self._table, who.staging
        computed = positions = table.computed[who.slot]  # [S], a copy
        if who.row is not None:
            positions = table.computed[who.row_slot] + who.row  # [T]
        seq_lens = computed + who.count  # [S]
        block, offset = np.divmod(positions, table.block_size)  # [T] each
        lengths: list[int] = seq_lens.tolist()
        staging.seq_lens[:] = seq_lens
        staging.positions[:] = positions
        staging.token_ids[:] = table.token_ids[who.row_slot, positions]
        width = -(-max(lengths) // table.block_size)
        for group in range(self._num_groups):
            blocks, window = table.tables[group], table.windows[group]
            starts = blocks[who.row_slot, block] * np.int64(table.block_size)  # [T], of each row's block
            staging.slot_mappings[group][:] = starts + offset
            block_table = staging.block_table(group, width)
            block_table[:] = blocks[who.slot, :width]
            if window is not None:
                # What no row of this step sees may belong to somebody else by now: nobody is to read it.
                first = np.maximum(computed - window + 1, 0) // table.block_size  # [S]
                block_table[np.arange(width) < first[:, None]] = 0
        return lengths

    def _drawn(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[T]`: with what the host does not know yet, from where the step before has left it."""
        assert self._last_ids is not None
        slots = (UNKNOWN - token_ids).clamp_(min=0)
        return torch.where(token_ids < 0, self._last_ids[slots], token_ids)

    def _put(self, *arrays: NDArray[Any]) -> list[torch.Tensor]:
        return upload(self._device, *map(torch.from_numpy, arrays))
