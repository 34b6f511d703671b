"""Batches of a draft model: any run of tokens of any slots, by the slots' own block tables.

Rows go where the request's blocks are, and past these, where drafts may lie that nobody has accepted, into
blocks that belong to nobody and are good for one round of proposals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from quire.contracts import AttentionBatch
from quire.ops.upload import upload
from quire.runtime.slots import SlotTable
from quire.runtime.staging import filled

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a round: run i is `count[i]` tokens of request `place[i]`, from position `first[i]` on.

    Attributes:
        place, first, count: `[N]` each.
        ends: runs after which nothing of their request is missing.
    """

    place: Numbers
    first: Numbers
    count: Numbers
    ends: list[int]

    @property
    def apart(self) -> Chunk:
        """The same rows, each a run of its own."""
        run, positions = self.rows
        return Chunk(self.place[run], positions, np.ones(len(run), dtype=np.int64), [])

    @property
    def last_rows(self) -> Numbers:
        """Rows of the tokens that end a request's."""
        return (np.cumsum(self.count) - 1)[self.ends]

    @property
    def rows(self) -> tuple[Numbers, Numbers]:
        """By row, `[T]` each: its run, and its position."""
        run = np.repeat(np.arange(len(self.place)), self.count)
        start = np.cumsum(self.count) - self.count
        return run, self.first[run] + np.arange(len(run)) - start[run]


def chunks(first: Sequence[int], ends: Sequence[int], most: int) -> Iterator[Chunk]:
    """All tokens from `first[i]` up to `ends[i]` of each request, in steps of at most `most` rows."""
    runs: list[tuple[int, int, int]] = []
    room = most
    for place, (start, end) in enumerate(zip(first, ends, strict=True)):
        while start < end:
            count = min(room, end - start)
            runs.append((place, start, count))
            start, room = start + count, room - count
            if room == 0:
                yield _chunk(runs, ends)
                runs, room = [], most
    if runs:
        yield _chunk(runs, ends)


def _chunk(runs: list[tuple[int, int, int]], ends: Sequence[int]) -> Chunk:
    place, first, count = np.array(runs, dtype=np.int64).T
    done = [i for i, (where, start, number) in enumerate(runs) if start + number == ends[where]]
    return Chunk(place, first, count, done)


class Round:
    """The requests of one round of proposals, and where their tokens lie."""

    def __init__(
        self, table: SlotTable, group: int, slots: Sequence[int], most: int, spare: int, lag: int
    ) -> None:
        """Lay out the blocks.

        Args:
            table: the worker's slots; only read.
            group: KV group of the block table.
            slots: the requests.
            most: tokens proposed to each, at most.
            spare: first of the blocks that belong to nobody; the request at place i has those from
                `spare + i * spare_blocks(most)` on.
            lag: positions by which a row lies before its token.
        """
        self._table, self._lag = table, lag
        self.slots = np.asarray(slots, dtype=np.int64)
        self.known: Numbers = table.num_tokens[self.slots]  # [S]
        self.rows: Numbers = self.known - lag  # [S], of the tokens known
        self.held: Numbers = table.num_blocks[group, self.slots]  # [S]
        size, each = table.block_size, spare_blocks(most, table.block_size)
        width = -(-(int(self.known.max()) + most) // size)
        number = np.arange(width)
        past = number - self.held[:, None]  # [S, B]
        own = table.tables[group][self.slots, :width]
        if own.shape[1] < width:  # the longest sequence's table has no place for what is past it
            own = np.pad(own, ((0, 0), (0, width - own.shape[1])))
        others = spare + np.arange(len(slots))[:, None] * each + np.minimum(past, each - 1)
        self.blocks: NDArray[np.int32] = np.where(past < 0, own, others).astype(np.int32)  # [S, B]

    def batch(
        self, chunk: Chunk, device: torch.device, fill_to: int = 0
    ) -> tuple[torch.Tensor, AttentionBatch]:
        """The tokens' ids, `[T]` int64, as the slots know them, and what every KV group sees of them.

        Args:
            chunk: the rows.
            device: where to.
            fill_to: of runs of one row: the rows to add up to, which belong to nobody and have ids of -1.
        """
        place, size = chunk.place, self._table.block_size
        query_start = np.zeros(len(place) + 1, dtype=np.int32)
        np.cumsum(chunk.count, out=query_start[1:])
        row, positions = chunk.rows  # [T]
        seq_lens = chunk.first + chunk.count
        longest = int(seq_lens.max())
        blocks = self.blocks[place, : -(-longest // size)]
        block, offset = np.divmod(positions, size)
        token_ids = self._table.token_ids[self.slots[place][row], positions + self._lag].astype(np.int64)
        more = max(fill_to - len(place), 0)
        arrays = (
            filled(token_ids, len(token_ids) + more, -1),
            np.concatenate((query_start, query_start[-1] + np.arange(1, more + 1, dtype=np.int32))),
            filled(seq_lens.astype(np.int32), len(place) + more, 0),
            filled(positions, len(positions) + more, 0),
            filled(blocks, len(place) + more, 0),
            filled(blocks[row, block].astype(np.int64) * size + offset, len(positions) + more, -1),
        )
        ids_there, query_start_there, seq_lens_there, positions_there, block_table, slot_mapping = upload(
            device, *map(torch.from_numpy, arrays)
        )
        group = AttentionBatch(
            query_start=query_start_there,
            seq_lens=seq_lens_there,
            positions=positions_there,
            block_table=block_table,
            slot_mapping=slot_mapping,
            max_query_len=int(chunk.count.max()),
            max_seq_len=longest,
            query_lens_host=chunk.count.tolist() + [1] * more,
            seq_lens_host=seq_lens.tolist() + [0] * more,
        )
        return ids_there, group


def spare_blocks(most: int, block_size: int) -> int:
    """Blocks past its own that a request may write to: its last token and `most - 1` drafts behind it."""
    return -(-most // block_size)
