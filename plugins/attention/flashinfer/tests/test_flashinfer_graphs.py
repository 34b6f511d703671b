"""A captured step is planned anew before each replay, and reads from where it was captured."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from quire.contracts import AttentionBatch, GraphSupport
from quire.testing.attention_rig import AttentionRig, Request, Shape
from quire_attn_flashinfer.backend import FlashInferAttention

Rigs = Callable[..., AttentionRig]


def empty(requests: int, rig: AttentionRig) -> AttentionBatch:
    """A step of as many requests that belong to nobody, as a runtime captures it."""
    sequences = [rig.add(1) for _ in range(requests)]
    batch = rig.batch(sequences, [1] * requests)
    batch.seq_lens[:] = batch.block_table[:] = 0
    batch.slot_mapping[:] = -1
    batch.seq_lens_host = [0] * requests
    return batch


def filled(batch: AttentionBatch, more: int) -> AttentionBatch:
    """The batch with requests of one row, no tokens and no slot at its end."""
    nothing = torch.zeros(more, dtype=torch.int64)
    steps = torch.arange(1, more + 1, dtype=torch.int32)
    batch.query_start = torch.cat((batch.query_start, batch.query_start[-1] + steps))
    batch.seq_lens = torch.cat((batch.seq_lens, nothing.int()))
    batch.positions = torch.cat((batch.positions, nothing))
    batch.slot_mapping = torch.cat((batch.slot_mapping, nothing - 1))
    batch.block_table = torch.nn.functional.pad(batch.block_table, (0, 0, 0, more))
    batch.query_lens_host = [*batch.query_lens_host, *[1] * more]
    batch.seq_lens_host = [*batch.seq_lens_host, *[0] * more]
    return batch


class Captured:
    """A decode step with its inputs; what it reads is looked up again at each replay."""

    def __init__(self, rig: AttentionRig, requests: int, played: ModuleType) -> None:
        self.rig, self.requests = rig, requests
        shape = rig.shape
        self.q = rig.normal(requests, shape.kv_heads * shape.ratio, shape.head_dim)
        self.k, self.v = (rig.normal(requests, shape.kv_heads, shape.head_dim) for _ in range(2))
        self.metadata = rig.backend.plan(empty(requests, rig))
        rig.backend.begin_capture(self.metadata)
        self.wrapper = played._Wrapper.made[-1]
        self.run()
        self.addresses = self.look_up()

    def run(self) -> torch.Tensor:
        rig = self.rig
        return rig.backend.forward(self.q, self.k, self.v, rig.kv, self.metadata, rig.layer)

    def look_up(self) -> list[int]:
        """Where what the step's kernels read lies."""
        read = (self.metadata.targets, self.metadata.unwritten, *self.wrapper.buffers)
        return [tensor.data_ptr() for tensor in read]

    def replay(self, sequences: list[Request]) -> None:
        """Compute a row of each in the captured step's place, filled up, and check them."""
        rig, count = self.rig, len(sequences)
        batch = filled(rig.batch(sequences, [1] * count), self.requests - count)
        for own, name in ((self.q, "q"), (self.k, "k"), (self.v, "v")):
            own[:count] = torch.stack([getattr(one, name)[one.computed] for one in sequences])
        rig.backend.begin_replay(self.metadata, batch)
        out = self.run()
        assert self.look_up() == self.addresses
        assert out.isfinite().all()
        for row, one in enumerate(sequences):
            one.computed += 1
            rig.close(out[row : row + 1], rig.expected(one, one.computed - 1, one.computed))


@pytest.fixture
def wrappers(played: ModuleType) -> list[Any]:
    """The stand-in's wrappers, in the order they were made."""
    made: list[Any] = played._Wrapper.made
    return made


def test_decode_steps_are_supported() -> None:
    assert FlashInferAttention.graph_support is GraphSupport.DECODE


@pytest.mark.parametrize("window", [None, 20])
def test_a_captured_decode_serves_other_requests(
    make_rig: Rigs, played: ModuleType, window: int | None
) -> None:
    rig = make_rig(Shape(window=window))
    sequences = [rig.add(total) for total in (100, 30, 70)]
    rig.run(sequences, [90, 20, 60])
    captured = Captured(rig, 3, played)
    captured.replay(sequences)
    captured.replay([sequences[2], sequences[0]])
    rig.check(sequences, [1, 4, 1])  # an uncaptured step between
    captured.replay([sequences[1]])


def test_sizes_are_captured_apart(make_rig: Rigs, played: ModuleType) -> None:
    rig = make_rig(Shape())
    sequences = [rig.add(total) for total in (100, 30, 70, 50)]
    rig.run(sequences, [90, 20, 60, 40])
    four, two = Captured(rig, 4, played), Captured(rig, 2, played)
    for _ in range(2):
        four.replay(sequences)
        two.replay(sequences[1:3])
        two.replay(sequences[:1])
        four.replay(sequences[1:])


def test_a_captured_step_refuses_what_it_was_not_captured_for(make_rig: Rigs, played: ModuleType) -> None:
    rig = make_rig(Shape())
    sequences = [rig.add(20) for _ in range(3)]
    captured = Captured(rig, 3, played)
    with pytest.raises(ValueError, match="captured with 3 requests, and cannot be replayed with 2: pad"):
        rig.backend.begin_replay(captured.metadata, rig.batch(sequences[:2], [1, 1]))
    with pytest.raises(ValueError, match="have one row per request, not up to 2: run others uncaptured"):
        rig.backend.begin_replay(captured.metadata, rig.batch(sequences, [2, 1, 0]))
    with pytest.raises(ValueError, match="have one row per request"):
        rig.backend.begin_capture(rig.backend.plan(rig.batch(sequences, [2, 1, 1])))


def test_a_batch_may_be_filled_up_without_a_graph(make_rig: Rigs) -> None:
    rig = make_rig(Shape(window=5, block_size=4))
    sequence = rig.add(20)
    rig.run([sequence], [18])
    batch = filled(rig.batch([sequence], [1]), 2)
    before = {name: tensor.clone() for name, tensor in rig.kv.items()}
    q, k, v = (torch.cat((x[18:19], x[:2])) for x in (sequence.q, sequence.k, sequence.v))
    out = rig.backend.forward(q, k, v, rig.kv, rig.backend.plan(batch), rig.layer)
    rig.close(out[:1], rig.expected(sequence, 18, 19))
    assert out.isfinite().all()
    written = {name: (rig.kv[name] != tensor) & rig.kv[name].isfinite() for name, tensor in before.items()}
    assert all(one.flatten(2).any(-1).sum() == 1 for one in written.values())  # the token's own slot


def test_decodes_that_come_last_are_decoded(make_rig: Rigs, wrappers: list[Any]) -> None:
    rig = make_rig(Shape())
    prefill, decode = wrappers
    sequences = [rig.add(40) for _ in range(4)]

    def planned(counts: list[int]) -> tuple[int, int]:
        """Rows that go to prefill, and to decode."""
        parts = rig.backend.plan(rig.batch(sequences, counts)).parts
        rows = {id(part.runner._wrapper): part.rows.stop - part.rows.start for part in parts}
        return rows.get(id(prefill), 0), rows.get(id(decode), 0)

    assert planned([5, 2, 1, 1]) == (7, 2)
    assert planned([1, 1, 1, 1]) == (0, 4)
    assert planned([5, 4, 3, 2]) == (14, 0)
    assert planned([1, 3, 1, 0]) == (4, 1)
    assert planned([0, 0, 0, 0]) == (0, 0)


def test_a_plan_is_not_used_after_the_next(make_rig: Rigs) -> None:
    rig = make_rig(Shape())
    sequence = rig.add(20)
    old = rig.backend.plan(rig.batch([sequence], [5]))
    rig.backend.plan(rig.batch([sequence], [6]))
    with pytest.raises(AssertionError, match="another step has been planned since"):
        rig.backend.forward(sequence.q[:5], sequence.k[:5], sequence.v[:5], rig.kv, old, rig.layer)
