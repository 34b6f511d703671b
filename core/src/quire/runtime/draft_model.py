"""A draft model in a worker: its weights, its K and V, and how far it has come with each slot.

Its layers keep K and V by the block tables of the requests, in tensors of their own: wherever the served
model's KV is, theirs has a place as well, so that prefixes, forks, preemption and eviction need no books
of their own. Places are filled when they are asked for. Each block remembers what it holds, since it may be
found again through the prefix index by somebody who never computed it.
Knows slots and blocks. Must never know what is proposed, nor what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from quire.contracts import AttentionBackend, Batch, DraftModel, Model, SampleRows
from quire.layers import Step
from quire.ops.upload import upload
from quire.plan import BlockCopy
from quire.runtime.device import Device
from quire.runtime.draft_batches import Chunk, Numbers, Round, chunks, spare_blocks
from quire.runtime.graphs import DecodeGraphs, can_capture
from quire.runtime.guessing import Guessing
from quire.runtime.kv_cache import KVCache
from quire.runtime.slot_state import SlotState
from quire.runtime.slots import SlotTable
from quire.runtime.spread import MOST_ROWS
from quire.runtime.staging import filled

if TYPE_CHECKING:
    from quire.ops import Kernels
    from quire.runtime.config import DraftConfig

STALE, CLEAN, WHOLE = 0, 1, 2
"""A block's content: an earlier owner's; zeros, or some rows of this one; all of its rows."""

UNKNOWN = -1
"""Computed count of a slot that has not been asked about: whole blocks may be there already."""


class PagedDraftModel(DraftModel):
    """See the contract."""

    lag = 0
    """Positions by which a row lies before the token that it computes."""

    captures = True
    """Whether its rows can be replayed from graphs: those of tokens alone can."""

    def __init__(
        self,
        config: DraftConfig,
        model: Model,
        backends: Sequence[AttentionBackend],
        group_of_layer: Sequence[int],
        guessing: Guessing,
        device: str,
        *,
        weight_bytes: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
    ) -> None:
        """Take over a loaded model. `allocate` gives it its memory.

        Args:
            config: what was planned for it.
            model, backends, group_of_layer: as loaded.
            guessing: draws from what the model says.
            device: torch device string.
            weight_bytes: memory that its weights hold.
            max_num_seqs, max_num_batched_tokens: bounds of a step.
        """
        self.max_len = config.max_model_len
        self.weight_bytes = weight_bytes
        self.group = config.group
        self._most = config.num_speculative_tokens
        self._vocab_size = config.vocab_size
        self._own_vocab = int(config.model_config["vocab_size"])
        self._model, self._backends, self._group_of_layer = model, list(backends), list(group_of_layer)
        self.guessing = guessing
        self._device = torch.device(device)
        self._max_num_seqs, self._max_rows = max_num_seqs, max_num_batched_tokens

    @property
    def bytes_per_block(self) -> int:
        """Bytes that one more block costs, over all its layers."""
        return KVCache.bytes_per_block(self._backends, self._group_of_layer)

    def spare_bytes(self, block_size: int) -> int:
        """Bytes of the blocks that it has besides those of the requests."""
        return self._num_spare(block_size) * self.bytes_per_block

    def allocate(self, num_blocks: int, table: SlotTable) -> None:
        """Take KV memory beside `num_blocks` blocks of the requests, the null block included; start anew."""
        count = num_blocks + self._num_spare(table.block_size)
        self._kv = KVCache(self._backends, self._group_of_layer, count, str(self._device))
        self._table = table
        self._spare = num_blocks
        self._content = bytearray(count)
        self._computed = np.full(len(table.computed), UNKNOWN, dtype=np.int64)
        self._graphs: DecodeGraphs | None = None

    def capture(self, device: Device, kernels: Kernels) -> int:
        """Capture single rows as graphs, over the memory that was taken; returns the bytes that they hold.

        Launched one by one, the kernels of a small model take about as long as a large one's graph.
        """
        if not (self.captures and can_capture(device, self._backends)):
            return 0
        self._graphs = DecodeGraphs(
            device,
            self._model,
            self._backends,
            self._kv.layers,
            kernels,
            SlotState(self._max_num_seqs, device.name),
            "guesses are drawn by themselves",
            max_num_seqs=self._max_num_seqs,
            max_model_len=self.max_len,
            block_size=self._table.block_size,
        )
        return self._graphs.report.nbytes

    def seat(self, slot: int) -> None:
        """A slot has been given to another request."""
        self._computed[slot] = UNKNOWN

    def given(self, blocks: Iterable[int]) -> None:
        """These blocks have been given to somebody."""
        for block in blocks:
            self._content[block] = STALE

    def copy(self, copies: Iterable[BlockCopy]) -> None:
        """The requests' blocks are copied. Of K and V nothing is: what a block lacks is computed."""

    def begin(self, slots: Sequence[int]) -> torch.Tensor:
        self.guessing.begin()
        asked = self._round = Round(self._table, self.group, slots, self._most, self._spare, self.lag)
        ends: list[int] = asked.rows.tolist()
        first = [self._first(place) for place in range(len(slots))]
        for place, start in enumerate(first):
            self._clear(place, start)
        self._next: Numbers = asked.known.copy()
        parts = list(chunks(first, ends, self._max_rows))
        if len(parts) == 1 and self._replays(parts[0]):
            logits = self._replay(parts[0])[self._last_rows(parts[0])]
        else:
            hidden = [self._forward(chunk)[self._last_rows(chunk)] for chunk in parts]
            self._hidden = torch.cat(hidden)  # [S, H]
            logits = self._logits(self._model.logits(self._hidden))
        for place, start in enumerate(first):
            self._mark(place, start)
        return logits

    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        count = len(ids)
        one = np.ones(count, dtype=np.int64)
        chunk = Chunk(np.arange(count), self._next[:count] - self.lag, one, [])
        self._next = self._next[:count] + 1
        if self._replays(chunk):
            return self._replay(chunk, ids).clone()  # the next replay writes there
        self._hidden = self._forward(chunk, ids)
        return self._logits(self._model.logits(self._hidden))

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        count = len(logits)
        rows = SampleRows(slots=self._round.slots[:count].tolist(), positions=self._next[:count].tolist())
        return self.guessing.draw(logits, rows)

    # --- what is there

    def _first(self, place: int) -> int:
        """The first row to compute of the round's request at a place: at the latest its last one."""
        slot, rows = self._round.slots[place], int(self._round.rows[place])
        computed = int(self._computed[slot])
        if computed == UNKNOWN:
            size, held = self._table.block_size, int(self._round.held[place])
            blocks: list[int] = self._table.tables[self.group][slot, : min(held, rows // size)].tolist()
            whole = 0
            while whole < len(blocks) and self._content[blocks[whole]] == WHOLE:
                whole += 1
            computed = whole * size
        return min(computed, rows - 1)

    def _clear(self, place: int, start: int) -> None:
        """See to it that nothing of an earlier owner is where a request computes or looks."""
        stale = [b for b in self._own(place, start, self._most) if self._content[b] == STALE]
        for group in range(len(self._backends)):
            self._kv.clear(group, stale)
        for block in stale:
            self._content[block] = CLEAN

    def _mark(self, place: int, start: int) -> None:
        """A request's rows are computed; those that lie in blocks of its own stay so."""
        size, rows = self._table.block_size, int(self._round.rows[place])
        self._computed[self._round.slots[place]] = min(rows, int(self._round.held[place]) * size)
        for block in self._own(place, start, -(rows % size)):
            self._content[block] = WHOLE

    def _own(self, place: int, start: int, more: int) -> list[int]:
        """A request's own blocks from its row `start` up to `more` rows past its last."""
        size, rows = self._table.block_size, int(self._round.rows[place])
        end = min(int(self._round.held[place]), -(-(rows + more) // size))
        blocks: list[int] = self._round.blocks[place, start // size : end].tolist()
        return blocks

    # --- running

    def _forward(self, chunk: Chunk, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states `[T, H]` of a chunk's rows; of `ids` instead of what the slots know, if given."""
        token_ids, batch = self._round.batch(chunk, self._device)
        metadata = tuple(backend.plan(batch) for backend in self._backends)
        token_ids = self._own_ids(token_ids if ids is None else ids)
        x = self._inputs(self._model.embed(token_ids), chunk, drafts=ids is not None)
        return self._model.forward(x, batch.positions, Step(metadata=metadata, kv=self._kv.layers))

    def _inputs(self, x: torch.Tensor, chunk: Chunk, *, drafts: bool) -> torch.Tensor:
        """What the model's layers read for a chunk's rows.

        Args:
            x: `[T, H]`, their tokens' embeddings.
            drafts: the chunk follows the rows that were computed last.
        """
        return x

    def _replays(self, chunk: Chunk) -> bool:
        """Whether a graph has as many rows, and no request so many that each would read a long context."""
        count = chunk.count
        return self._graphs is not None and count.sum() <= self._graphs.most and count.max() <= MOST_ROWS

    def _replay(self, chunk: Chunk, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Logits of a chunk's rows by a graph, valid until the next one; `ids` as in `_forward`."""
        assert self._graphs is not None
        rows = chunk.apart
        count = len(rows.place)
        size = self._graphs.size_for(count)
        token_ids, batch = self._round.batch(rows, self._device, size)
        if ids is not None:
            token_ids = torch.nn.functional.pad(ids, (0, size - count), value=-1)
        slots = upload(self._device, torch.from_numpy(filled(np.arange(count), size, -1)))[0]
        groups = (batch,) * len(self._backends)
        given = Batch(self._own_ids(token_ids), batch.positions, slots, slots, groups)
        return self._logits(self._graphs.run(given, gives=True)[:count])

    def _own_ids(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Without ids that only pad the other's vocabulary."""
        return token_ids.clamp(max=self._own_vocab - 1) if self._own_vocab < self._vocab_size else token_ids

    def _last_rows(self, chunk: Chunk) -> torch.Tensor:
        return upload(self._device, torch.from_numpy(chunk.last_rows))[0]

    def _logits(self, logits: torch.Tensor) -> torch.Tensor:
        """`[N, V]`, of the served model's width: models of one tokenizer pad it differently."""
        logits = logits[:, : self._vocab_size]
        missing = self._vocab_size - logits.shape[1]
        return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits

    def _num_spare(self, block_size: int) -> int:
        return self._max_num_seqs * spare_blocks(self._most, block_size)
