"""Decode steps captured as graphs: replayed, a step costs the host one call, whatever the model's depth.

Each graph computes a fixed number of rows, one a request; a batch is filled up to the next of these numbers.
Knows batches, the model and the backends. Must never know requests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quire.contracts import AttentionBackend, AttentionBatch, Batch, GraphSupport, Model
from quire.layers import Step
from quire.runtime.device import Device, Graph


@dataclass(frozen=True, slots=True)
class GraphReport:
    """What capturing came to.

    Attributes:
        sizes: rows of each graph, ascending.
        nbytes: of the device's memory, for all of them.
        problem: why there are none, if there are none.
    """

    sizes: tuple[int, ...]
    nbytes: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph, and what it reads."""

    graph: Graph
    token_ids: torch.Tensor  # [B]
    positions: torch.Tensor  # [B]
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
            kv: tensors of each attention layer; graphs keep their addresses.
            max_num_seqs, max_model_len, block_size: bounds of a step.
        """
        self._device = device
        self._model, self._backends, self._kv = model, tuple(backends), kv
        self._max_model_len = max_model_len
        self._width = -(-max_model_len // block_size)
        before = device.memory().free
        sizes = graph_sizes(max_num_seqs)
        row = model.logits(model.embed(torch.zeros(1, dtype=torch.int64, device=device.name)))
        # Results of all sizes lie here: each is read before the next step writes.
        self._logits = torch.empty(sizes[-1], row.shape[-1], dtype=row.dtype, device=device.name)
        self._captured = {size: self._capture(size) for size in reversed(sizes)}
        self._sizes = sizes
        self.report = GraphReport(sizes, max(before - device.memory().free, 0))

    def size_for(self, requests: int) -> int:
        """Rows to fill a batch of as many requests, a row each, up to."""
        return self._sizes[bisect_left(self._sizes, requests)]

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits of a decode step, `[B, V]`; valid until the next one is run.

        Args:
            batch: filled up to a captured size.
        """
        step = self._captured[batch.token_ids.shape[0]]
        step.token_ids.copy_(batch.token_ids)
        step.positions.copy_(batch.positions)
        for backend, metadata, group in zip(self._backends, step.metadata, batch.groups, strict=True):
            backend.begin_replay(metadata, group)
        step.graph.replay()
        return self._logits[: batch.token_ids.shape[0]]

    def _capture(self, size: int) -> _Captured:
        device = self._device.name
        token_ids = torch.zeros(size, dtype=torch.int64, device=device)
        positions = torch.zeros(size, dtype=torch.int64, device=device)
        metadata = []
        for backend in self._backends:
            planned = backend.plan(self._empty(size, positions))
            backend.begin_capture(planned)
            metadata.append(planned)
        step = Step(metadata=tuple(metadata), kv=self._kv)

        def work() -> None:
            hidden = self._model.forward(self._model.embed(token_ids), positions, step)
            self._logits[:size].copy_(self._model.logits(hidden))

        return _Captured(self._device.capture(work), token_ids, positions, tuple(metadata))

    def _empty(self, size: int, positions: torch.Tensor) -> AttentionBatch:
        """As many requests of one row that belong to nobody."""
        device = self._device.name
        return AttentionBatch(
            query_start=torch.arange(size + 1, dtype=torch.int32, device=device),
            seq_lens=torch.zeros(size, dtype=torch.int32, device=device),
            positions=positions,
            block_table=torch.zeros(size, self._width, dtype=torch.int32, device=device),
            slot_mapping=torch.full((size,), -1, dtype=torch.int64, device=device),
            max_query_len=1,
            max_seq_len=self._max_model_len,
            query_lens_host=[1] * size,
            seq_lens_host=[0] * size,
        )
