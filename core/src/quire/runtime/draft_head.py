"""A head in a worker: a draft model that continues from the served model's hidden states.

It has the K and V of any draft model, and one tensor more by the same block tables: the features of each
position, made of the states that the served model's own steps leave. What a step has left is kept when it is
known which of its tokens count. Where nothing was kept a feature is zero: only the token speaks for its
position.
A row's K and V depend on the token after it. So the last row of a block is another one for each request that
shares the block and then goes on by itself. It is that of the first who computes it; any other has a block of
its own in its place, but only one: of several such blocks of a request, for the last.
Knows slots and blocks. Must never know what is proposed, nor what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from quire.contracts import HeadModel
from quire.layers import Tap
from quire.ops.upload import upload
from quire.plan import BlockCopy
from quire.runtime.batching import Rows
from quire.runtime.draft_batches import Chunk, Numbers
from quire.runtime.draft_model import STALE, UNKNOWN, PagedDraftModel
from quire.runtime.pages import zeros
from quire.runtime.slots import SlotTable

if TYPE_CHECKING:
    from quire.runtime.config import DraftConfig

__all__ = ["KeptStates", "PagedHead", "feature_bytes"]


@dataclass(frozen=True, slots=True)
class KeptStates:
    """What a forward pass has left, until it is known which of its tokens count.

    Attributes:
        features: `[T, F]`.
        rows: whose they are.
        places: `[T]`, where each row lies: block times block size, and its place in the block.
        owners: `[T]`, how often that block had been given out by then.
    """

    features: torch.Tensor
    rows: Rows
    places: Numbers
    owners: Numbers


class PagedHead(PagedDraftModel):
    """See the contract of `HeadModel`."""

    lag = 1
    captures = False  # its rows read features as well

    def __init__(
        self,
        config: DraftConfig,
        model: HeadModel,
        *args: Any,
        dtype: torch.dtype,
        block_size: int,
        **kwargs: Any,
    ) -> None:
        """As `PagedDraftModel`.

        Args:
            config, model, args, kwargs: as there.
            dtype: of the features.
            block_size: tokens per block.
        """
        super().__init__(config, model, *args, **kwargs)
        self._head = model
        self._dtype = dtype
        self._feature_bytes = feature_bytes(model.feature_size, dtype, block_size)

    @property
    def bytes_per_block(self) -> int:
        return super().bytes_per_block + self._feature_bytes

    def spare_bytes(self, block_size: int) -> int:
        return self._num_spare(block_size) * super().bytes_per_block

    def allocate(self, num_blocks: int, table: SlotTable) -> None:
        super().allocate(num_blocks, table)
        shape = (num_blocks, table.block_size, self._head.feature_size)
        if self._device.type == "cpu":
            self._features = zeros(shape, self._dtype)
        else:
            self._features = torch.zeros(shape, dtype=self._dtype, device=self._device)
        self._kept = bytearray(num_blocks)  # blocks whose features are their owner's
        self._owners: Numbers = np.zeros(num_blocks, dtype=np.int64)  # by block, how many it has had
        self._followers: dict[int, int] = {}  # by block, the token of its last row
        self._private = num_blocks + super()._num_spare(table.block_size)
        self._branch: Numbers = np.full(len(table.computed), -1, dtype=np.int64)

    def seat(self, slot: int) -> None:
        super().seat(slot)
        self._branch[slot] = -1

    def given(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._content[block] = STALE
            self._kept[block] = False
            self._owners[block] += 1
            self._followers.pop(block, None)

    def copy(self, copies: Iterable[BlockCopy]) -> None:
        """Of features, what there is of the tokens that both share: nobody could compute it anew."""
        for copy in copies:
            if copy.group == self.group and self._kept[copy.src]:
                ours, count = self._features[copy.dst], copy.num_tokens
                ours[:count] = self._features[copy.src, :count]
                ours[count:] = 0  # of what the other sequence says there, or an earlier owner
                self._kept[copy.dst] = True

    # --- what the served model's steps leave

    def tap(self) -> Tap:
        """Asks a step of the served model for the states that features are made of."""
        return Tap(self._head.depths)

    def take(self, tap: Tap, rows: Rows) -> KeptStates:
        """What a step's rows have left; where they lie is looked up now, for slots may change hands."""
        features = self._head.fuse([tap.states[depth] for depth in self._head.depths])
        slots, counts = np.asarray(rows.slots), np.asarray(rows.counts)
        first = np.asarray(rows.computed) - counts
        row, positions = Chunk(slots, first, counts, []).rows
        places = self._places(slots[row], positions)
        return KeptStates(features, rows, places, self._owners[places // self._table.block_size])

    def keep(self, states: KeptStates, rejected: Mapping[int, int]) -> None:
        """Keep them, but for those of rejected drafts: by slot how many of its last rows do not count.

        A request may have ended since, and its blocks be another's: the next step may have begun.
        """
        rows = states.rows
        kept = states.owners == self._owners[states.places // self._table.block_size]
        for slot, start, count in zip(rows.slots, rows.starts, rows.counts, strict=True):
            kept[start + count - rejected.get(slot, 0) : start + count] = False
        places, features = states.places[kept], states.features
        self._own_features(np.unique(places // self._table.block_size).tolist())
        there, which = upload(self._device, torch.from_numpy(places), torch.from_numpy(kept.nonzero()[0]))
        if len(places) < len(kept):
            features = features[which]
        self._features.flatten(0, 1).index_copy_(0, there, features)

    def _own_features(self, blocks: Iterable[int]) -> None:
        """See to it that these blocks hold no features of an earlier owner."""
        for block in blocks:
            if not self._kept[block]:
                self._features[block].zero_()
                self._kept[block] = True

    def _places(self, slots: Numbers, positions: Numbers) -> Numbers:
        """`[T]`, of the positions of some slots, where they lie in the requests' own blocks."""
        block, offset = np.divmod(positions, self._table.block_size)
        return self._table.tables[self.group][slots, block].astype(np.int64) * self._table.block_size + offset

    # --- what is there

    def _first(self, place: int) -> int:
        first, size = super()._first(place), self._table.block_size
        slot, rows = int(self._round.slots[place]), int(self._round.rows[place])
        begin = 0 if self._computed[slot] == UNKNOWN else first // size
        branch = int(self._branch[slot])
        ends = min(int(self._round.held[place]), rows // size)
        blocks = self._table.tables[self.group][slot]
        for index in range(begin, ends):
            token = int(self._table.token_ids[slot, (index + 1) * size])
            if index != branch and self._followers.setdefault(int(blocks[index]), token) != token:
                branch = index
        private = self._private + slot
        if branch != self._branch[slot]:
            self._branch[slot] = branch
            self._content[private] = STALE
            self._computed[slot] = first = min(first, branch * size)
        if branch >= 0:
            self._round.blocks[place, branch] = private
        return first

    def _clear(self, place: int, start: int) -> None:
        super()._clear(place, start)
        size, rows = self._table.block_size, int(self._round.rows[place])
        blocks = self._table.tables[self.group][self._round.slots[place], start // size : -(-rows // size)]
        self._own_features(blocks.tolist())

    def _inputs(self, x: torch.Tensor, chunk: Chunk, *, drafts: bool) -> torch.Tensor:
        if drafts:
            return torch.stack((x, self._hidden[: len(x)]))
        run, positions = chunk.rows
        slots = self._round.slots[chunk.place][run]
        (places,) = upload(self._device, torch.from_numpy(self._places(slots, positions)))
        return torch.stack((x, self._features.flatten(0, 1)[places]))

    def _num_spare(self, block_size: int) -> int:
        """With one for each request, for the end of a prefix that it shares."""
        return super()._num_spare(block_size) + self._max_num_seqs


def feature_bytes(feature_size: int, dtype: torch.dtype, block_size: int) -> int:
    """Bytes of a block's features."""
    return feature_size * dtype.itemsize * block_size
