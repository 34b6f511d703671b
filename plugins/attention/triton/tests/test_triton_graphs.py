"""A step that was captured computes other batches when it is replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quire.contracts import AttentionBatch, GraphSupport
from quire.testing.attention_rig import AttentionRig, Request, Shape
from quire_attn_triton import launch, metadata
from quire_attn_triton.backend import TritonAttention

KERNELS = (
    (metadata, "plan_kernel"),
    *((launch, name) for name in ("write_kernel", "decode_kernel", "reduce_kernel", "prefill_kernel")),
)


class Recorder:
    """Stands for a kernel: launches it, and remembers the launch as a graph would."""

    def __init__(self, kernel: Any, launches: list[Callable[[], object]]) -> None:
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            self._launches.append(lambda: self._kernel[grid](*args, **kwargs))
            self._launches[-1]()

        return launch


class Captured:
    """A forward pass recorded launch by launch, with the tensors it was launched with."""

    def __init__(
        self, rig: AttentionRig, batch: AttentionBatch, monkeypatch: pytest.MonkeyPatch, plans: bool
    ) -> None:
        """Record.

        Args:
            rig, batch: what is run.
            monkeypatch: puts recorders in the kernels' places.
            plans: planning is recorded with the pass; else the backend is asked to plan at each replay.
        """
        self.rig, self.plans, self.batch = rig, plans, batch
        self._launches: list[Callable[[], object]] = []
        rows, shape = batch.positions.shape[0], rig.shape
        self.q = rig.normal(rows, shape.kv_heads * shape.ratio, shape.head_dim)
        self.k, self.v = (rig.normal(rows, shape.kv_heads, shape.head_dim) for _ in range(2))
        with monkeypatch.context() as patch:
            for module, name in KERNELS:
                patch.setattr(module, name, Recorder(getattr(module, name), self._launches))
            self.metadata = rig.backend.plan(batch)
            if not plans:
                rig.backend.begin_capture(self.metadata)
                self._launches.clear()
            self.out = rig.backend.forward(self.q, self.k, self.v, rig.kv, self.metadata, rig.layer, rig.rope)

    def replay(self, sequences: list[Request], counts: list[int], padding: int) -> None:
        """Compute a step in the captured one's place, `padding` requests of one row added, and check it."""
        rig = self.rig
        batch = rig.batch(sequences, counts)
        rows = sum(counts)
        batch = padded(batch, padding)
        for own, name in ((self.q, "q"), (self.k, "k"), (self.v, "v")):
            parts = [
                getattr(s, name)[s.computed : s.computed + n] for s, n in zip(sequences, counts, strict=True)
            ]
            own[:rows] = torch.cat(parts)  # the rows of padding keep what was there
        if self.plans:
            for name in ("query_start", "seq_lens", "positions", "slot_mapping"):
                getattr(self.batch, name).copy_(getattr(batch, name))
            self.batch.block_table[:, : batch.block_table.shape[1]] = batch.block_table
        else:
            rig.backend.begin_replay(self.metadata, batch)
        self.out.fill_(float("nan"))
        for again in self._launches:
            again()
        assert self.out[rows:].isfinite().all()
        starts = [sequence.computed for sequence in sequences]
        outs = torch.split(self.out[:rows], counts)
        for sequence, start, count, out in zip(sequences, starts, counts, outs, strict=True):
            sequence.computed += count
            rig.close(out, rig.expected(sequence, start, sequence.computed))


def padded(batch: AttentionBatch, requests: int) -> AttentionBatch:
    """The batch with requests of one row, no tokens and no slot at its end."""
    more = torch.arange(1, requests + 1, dtype=torch.int32, device=batch.positions.device)
    nothing = torch.zeros(requests, dtype=torch.int64, device=batch.positions.device)
    batch.query_start = torch.cat((batch.query_start, batch.query_start[-1] + more))
    batch.seq_lens = torch.cat((batch.seq_lens, nothing.int()))
    batch.positions = torch.cat((batch.positions, nothing))
    batch.slot_mapping = torch.cat((batch.slot_mapping, nothing - 1))
    batch.block_table = torch.nn.functional.pad(batch.block_table, (0, 0, 0, requests))
    batch.query_lens_host = [*batch.query_lens_host, *[1] * requests]
    batch.seq_lens_host = [*batch.seq_lens_host, *[0] * requests]
    return batch


def test_any_step_is_supported() -> None:
    assert TritonAttention.graph_support is GraphSupport.FULL


@pytest.mark.parametrize(("plans", "window"), [(True, None), (False, 50)], ids=["with-plan", "plan-outside"])
def test_a_captured_decode_serves_other_requests(
    make_rig: Callable[..., AttentionRig], window: int | None, plans: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(Shape(window=window, head_dim=32))
    sequences = [rig.add(total) for total in (150, 30, 70)]
    rig.run(sequences, [140, 20, 60])
    first = rig.batch(sequences, [1, 1, 1])
    first.block_table = torch.nn.functional.pad(first.block_table, (0, 64 - first.block_table.shape[1]))
    first.slot_mapping[:] = -1  # captured for its launches, not for its results
    captured = Captured(rig, first, monkeypatch, plans)
    captured.replay(sequences, [1, 1, 1], 0)
    captured.replay([sequences[2], sequences[0]], [1, 1], 1)
    captured.replay([sequences[1]], [1], 2)


def test_a_captured_chunk_serves_any_mixture(
    make_rig: Callable[..., AttentionRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(Shape(head_dim=32))
    sequences = [rig.add(total) for total in (110, 90, 70)]
    first = rig.batch(sequences, [40, 1, 1])
    first.slot_mapping[:] = -1
    captured = Captured(rig, first, monkeypatch, plans=False)
    captured.replay(sequences, [12, 20, 10], 0)
    captured.replay(sequences, [36, 1, 5], 0)
    captured.replay(sequences[:2], [1, 40], 1)
    captured.replay(sequences, [38, 3, 1], 0)


def test_a_captured_step_refuses_what_it_was_not_captured_for(
    make_rig: Callable[..., AttentionRig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(Shape(head_dim=32))
    sequences = [rig.add(90) for _ in range(3)]
    captured = Captured(rig, rig.batch(sequences, [2, 2, 2]), monkeypatch, plans=False)
    with pytest.raises(ValueError, match="3 requests and 6 rows, and cannot be replayed with 2 and 6: pad"):
        rig.backend.begin_replay(captured.metadata, rig.batch(sequences[:2], [3, 3]))
    with pytest.raises(ValueError, match="up to 2 rows per request, and cannot be replayed with 4"):
        rig.backend.begin_replay(captured.metadata, rig.batch(sequences, [4, 1, 1]))
