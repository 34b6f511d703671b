"""Decode steps captured as graphs: replayed, a step costs the host two calls, whatever the model's depth.

Each graph computes a fixed number of rows, one a request; a batch is filled up to the next of these numbers.
Rows of drafts, and of tokens that were appended, are given to it as requests of their own (`spread`).
The first of a step's two takes its tokens by slot, where the last step left them, and leaves logits; the
second draws from these, and leaves tokens for the next step. They are two because what is drawn how changes
with the requests: a second graph is a few launches, so that there may be one for each form of drawing, and a
step of which some row cannot be drawn like this does without.
Knows batches, slots, the model, the backends and the sampler's captured part. Must never know requests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    Batch,
    CapturedDraw,
    GraphSupport,
    Model,
    SampleRows,
)
from quire.layers import Step
from quire.runtime.device import Device, Graph
from quire.runtime.slot_state import SlotState

if TYPE_CHECKING:
    from quire.ops import Kernels


@dataclass(frozen=True, slots=True)
class GraphReport:
    """What capturing came to.

    Attributes:
        sizes: rows of each graph, ascending.
        nbytes: of the device's memory, for all of them.
        uncaptured: why sampling is not captured with them; empty if it is.
        problem: why there are none, if there are none.
    """

    sizes: tuple[int, ...]
    nbytes: int
    uncaptured: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Captured:
    """A step of one size.

    Attributes:
        model: from slots to logits.
        draws: from logits to tokens, by form; none if the sampler cannot.
        metadata: what the backends read, by KV group.
    """

    model: Graph
    draws: list[Graph]
    metadata: tuple[Any, ...]


def graph_sizes(most: int) -> tuple[int, ...]:
    """Numbers of rows to capture, up to `most`: close together where a row more costs most of a step."""
    steps = [1, 2, 4, *range(8, 32, 8), *range(32, 128, 16), *range(128, 256, 32), *range(256, most, 64)]
    return (*(size for size in steps if size < most), most)


def can_capture(device: Device, backends: Sequence[AttentionBackend]) -> bool:
    """Whether decode steps can be graphs here."""
    return device.captures and all(one.graph_support is not GraphSupport.NONE for one in backends)


class DecodeGraphs:
    """The decode steps of one model over one KV cache."""

    def __init__(
        self,
        device: Device,
        model: Model,
        backends: Sequence[AttentionBackend],
        kv: Sequence[Mapping[str, torch.Tensor]],
        kernels: Kernels,
        state: SlotState,
        sampling: CapturedDraw | str,
        *,
        max_num_seqs: int,
        max_model_len: int,
        block_size: int,
    ) -> None:
        """Capture all of them, the largest first: the others then fit into its memory.

        Args:
            device: the worker's.
            model: as loaded.
            backends: one per KV group, all of which can be captured.
            kv: tensors of each attention layer; graphs keep their addresses, as those of `state`.
            kernels: of the engine.
            state: where steps read and leave their tokens.
            sampling: what draws inside them, or why nothing does.
            max_num_seqs, max_model_len, block_size: bounds of a step.
        """
        self._device = device
        self._model, self._backends, self._kv = model, tuple(backends), kv
        self._kernels, self._state, self._sampling = kernels, state, sampling
        self._max_model_len = max_model_len
        self._width = -(-max_model_len // block_size)
        before = device.memory().free
        sizes = graph_sizes(max_num_seqs)
        row = model.logits(model.embed(torch.zeros(1, dtype=torch.int64, device=device.name)))
        # Rows and results of all sizes lie here: each is read before the next step writes.
        self._slots = torch.full((sizes[-1],), -1, dtype=torch.int64, device=device.name)
        self._seated: torch.Tensor | None = None  # what `_slots` was copied from
        self._given_ids = torch.full_like(self._slots, -1)
        self._given_positions = torch.zeros_like(self._slots)
        self._gives = False
        self._ends = torch.zeros_like(self._slots)  # positions of the tokens that are drawn
        self._logits = torch.empty(sizes[-1], row.shape[-1], dtype=row.dtype, device=device.name)
        self._ids = torch.empty(sizes[-1], dtype=torch.int64, device=device.name)
        self._invalid = torch.empty(sizes[-1], dtype=torch.bool, device=device.name)
        self._captured = {size: self._capture(size) for size in reversed(sizes)}
        self._sizes = sizes
        uncaptured = sampling if isinstance(sampling, str) else ""
        self.report = GraphReport(sizes, max(before - device.memory().free, 0), uncaptured)

    def size_for(self, requests: int) -> int:
        """Rows to fill a batch of as many requests, a row each, up to."""
        return self._sizes[bisect_left(self._sizes, requests)]

    @property
    def most(self) -> int:
        """Rows of the largest."""
        return self._sizes[-1]

    def run(self, batch: Batch, gives: bool = False) -> torch.Tensor:
        """Logits of a decode step, `[B, V]`; valid until the next one is run.

        Args:
            batch: filled up to a captured size, in requests of one row.
            gives: rows continue with the batch's `token_ids`, where these are not negative; all others with
                their slots' last tokens.
        """
        size = batch.slots.shape[0]
        step = self._captured[size]
        if gives:
            self._given_ids[:size].copy_(batch.token_ids)
            self._given_positions[:size].copy_(batch.positions)
        elif self._gives:
            self._given_ids.fill_(-1)
        self._gives = gives
        if self._seated is not batch.slots:  # the same tensor as long as the same requests decode
            self._slots[:size].copy_(batch.slots)
            self._seated = batch.slots
        for backend, metadata, group in zip(self._backends, step.metadata, batch.groups, strict=True):
            backend.begin_replay(metadata, group)
        step.model.replay()
        return self._logits[:size]

    def draw(self, rows: SampleRows) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Ids and invalid of the step that was run last, `[R]` each; valid until another one is drawn.

        The ids are their slots' last from then on.

        Args:
            rows: all of the step's, in its order.

        Returns:
            None if not all of them can be drawn like this. Nothing has changed then.
        """
        form = None if isinstance(self._sampling, str) else self._sampling.prepare(rows)
        if form is None:
            return None
        count = len(rows.slots)
        self._captured[self.size_for(count)].draws[form].replay()
        return self._ids[:count], self._invalid[:count]

    def _capture(self, size: int) -> _Captured:
        state, slots = self._state, self._slots[:size]
        ends, logits = self._ends[:size], self._logits[:size]
        given = self._given_ids[:size], self._given_positions[:size]
        metadata = []
        for backend in self._backends:
            planned = backend.plan(self._empty(size))
            backend.begin_capture(planned)
            metadata.append(planned)
        step = Step(metadata=tuple(metadata), kv=self._kv)

        def model() -> None:
            token_ids, positions = self._kernels.take_inputs(state.last_ids, state.lengths, slots, *given)
            hidden = self._model.forward(self._model.embed(token_ids), positions, step)
            logits.copy_(self._model.logits(hidden))
            torch.add(positions, 1, out=ends)

        def draw(sampling: CapturedDraw, form: int) -> None:
            ids, invalid = sampling.draw(logits, slots, ends, form)
            self._ids[:size].copy_(ids)
            self._invalid[:size].copy_(invalid)
            self._kernels.record_sampled(state.last_ids, state.lengths, slots, ids)

        captured = self._device.capture(model)
        draws = []
        if not isinstance(self._sampling, str):
            forms = range(self._sampling.forms)
            draws = [self._device.capture(partial(draw, self._sampling, form)) for form in forms]
        return _Captured(captured, draws, tuple(metadata))

    def _empty(self, size: int) -> AttentionBatch:
        """As many requests of one row that belong to nobody."""
        device = self._device.name
        return AttentionBatch(
            query_start=torch.arange(size + 1, dtype=torch.int32, device=device),
            seq_lens=torch.zeros(size, dtype=torch.int32, device=device),
            positions=torch.zeros(size, dtype=torch.int64, device=device),
            block_table=torch.zeros(size, self._width, dtype=torch.int32, device=device),
            slot_mapping=torch.full((size,), -1, dtype=torch.int64, device=device),
            max_query_len=1,
            max_seq_len=self._max_model_len,
            query_lens_host=[1] * size,
            seq_lens_host=[0] * size,
        )
