"""`AttentionSuite`: what every attention backend must pass.

Subclass it in your plugin's tests and name the class under test:

    class TestMyAttention(AttentionSuite):
        @pytest.fixture
        def backend_class(self) -> type[AttentionBackend]:
            return MyAttention

Each result is compared with dense attention in fp64 over the request's own tokens, without any
paging. Blocks that no request has hold NaN and unwritten slots a large number, so whatever a backend
reads beyond its request shows. Needs that the backend rejects are skipped, with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from quire.contracts import AttentionBackend, GraphSupport
from quire.testing.attention_invariance import AttentionInvarianceChecks
from quire.testing.attention_rig import AttentionRig, Request, Shape

SHAPES = {
    "plain": Shape(),
    "mha": Shape(kv_heads=3, ratio=1),
    "gqa-7": Shape(kv_heads=1, ratio=7, head_dim=32),
    "mqa": Shape(kv_heads=1, ratio=8),
    "head-20": Shape(head_dim=20),
    "head-80": Shape(head_dim=80, kv_heads=1),
    "block-1": Shape(block_size=1),
    "block-5": Shape(block_size=5),
    "block-32": Shape(block_size=32),
    "window": Shape(window=7, block_size=4),
    "window-1": Shape(window=1, block_size=4),
    "window-block": Shape(window=16, block_size=16),
    "cap": Shape(soft_cap=2.0),
    "window-cap": Shape(window=9, block_size=4, soft_cap=5.0),
}


class AttentionSuite(AttentionInvarianceChecks):
    """Subclass with a `backend_class` fixture; override `device` and `dtypes` where they differ."""

    dtypes: Sequence[str] = ("float32", "bfloat16")

    @pytest.fixture
    def backend_class(self) -> type[AttentionBackend]:
        """The class under test."""
        raise NotImplementedError("give your subclass a backend_class fixture")

    @pytest.fixture
    def device(self) -> str:
        """Torch device string the backend runs on."""
        return "cpu"

    @pytest.fixture
    def rig(self, backend_class: type[AttentionBackend], device: str) -> AttentionRig:
        """The plain shape in the first dtype."""
        return AttentionRig(backend_class, SHAPES["plain"], device=device, dtype=self.dtypes[0])

    @pytest.mark.parametrize("name", SHAPES)
    def test_mixed_batches_match_dense_attention(
        self, backend_class: type[AttentionBackend], device: str, name: str
    ) -> None:
        for dtype in self.dtypes:
            rig = AttentionRig(backend_class, SHAPES[name], device=device, dtype=dtype, num_blocks=400)
            sequences = [rig.add(total) for total in (1, 40, 33, 58, 17, 64)]
            rig.check(sequences, [1, 1, 16, 37, 5, 23])  # whole prompts and first chunks
            rest = sequences[1:]
            rig.check(rest, [1, 1, 1, 1, 1])  # decodes only
            rig.check(rest, [20, 1, 4, 4, 40])  # chunks on a cached prefix, several rows, a decode
            rig.check(rest[::-1], [0, 1, 1, 1, 1])  # another order; one request has nothing to do

    @pytest.mark.parametrize("window", [None, 6])
    @pytest.mark.parametrize("chunks", [[50], [20, 30], [16, 16, 18], [1] * 50, [3, 1, 40, 6]])
    def test_chunking_changes_nothing(
        self, backend_class: type[AttentionBackend], device: str, chunks: list[int], window: int | None
    ) -> None:
        rig = AttentionRig(
            backend_class, Shape(window=window, block_size=4), device=device, dtype=self.dtypes[0]
        )
        sequence = rig.add(50)
        out = torch.cat([rig.run([sequence], [count])[0] for count in chunks])
        rig.close(out, rig.expected(sequence, 0, 50))

    def test_a_window_may_forget_blocks(self, backend_class: type[AttentionBackend], device: str) -> None:
        rig = AttentionRig(backend_class, SHAPES["window"], device=device, dtype=self.dtypes[0])
        sequences = [rig.add(45), rig.add(30)]
        rig.run(sequences, [30, 20])
        for sequence in sequences:
            # The oldest key that the next row sees is at computed - window + 1.
            forgotten = (sequence.computed - 7 + 1) // 4
            for block in sequence.blocks[:forgotten]:
                for name in rig.kv:
                    rig.blocks_of(name)[block] = 0 if not rig.kv[name].is_floating_point() else float("nan")
            sequence.blocks[:forgotten] = [0] * forgotten
        rig.check(sequences, [1, 1])
        rig.check(sequences, [12, 5])

    def test_neighbours_change_nothing(self, backend_class: type[AttentionBackend], device: str) -> None:
        for dtype in self.dtypes:
            alone = AttentionRig(backend_class, SHAPES["plain"], device=device, dtype=dtype, seed=3)
            subject = alone.add(40)
            expected = torch.cat([alone.run([subject], [count])[0] for count in (30, 1, 9)])
            crowd = AttentionRig(backend_class, SHAPES["plain"], device=device, dtype=dtype, seed=4)
            others = [crowd.add(total) for total in (25, 60, 64)]
            same = replace(crowd.add(40), q=subject.q, k=subject.k, v=subject.v)
            order = [others[0], same, others[1], others[2]]
            out = torch.cat([crowd.run(order, [8, count, 1, 20])[1] for count in (30, 1, 9)])
            crowd.close(out, expected)

    def test_bad_neighbours_are_contained(self, rig: AttentionRig) -> None:
        good, bad = rig.add(20), rig.add(40)
        for tensor in (bad.q, bad.k, bad.v):
            tensor[::2] = float("nan")
            tensor[1::2] = float("inf")
        rig.check([good], [10])
        outs = rig.run([bad, good], [39, 9])
        rig.close(outs[1], rig.expected(good, 10, 19))
        outs = rig.run([bad, good], [1, 1])
        rig.close(outs[1], rig.expected(good, 19, 20))

    def test_only_named_slots_are_written(self, rig: AttentionRig) -> None:
        first, second = rig.add(20), rig.add(9)
        rig.run([first, second], [19, 4])
        before = {name: tensor.clone() for name, tensor in rig.kv.items()}
        rig.run([first, second], [1, 5])
        touched = {first.blocks[1], second.blocks[0]}
        for name in rig.kv:
            now = rig.blocks_of(name)
            was = before[name].movedim(rig.layout.tensors[name].block_axis, 0)
            for block in set(range(rig.num_blocks)) - touched:
                assert _same_bytes(now[block], was[block]), f"{name}: block {block} was written"
        assert any(not torch.equal(rig.kv[name], before[name]) for name in rig.kv)
        # Nor other slots of the same blocks: what was computed before is still there.
        rig.run([replace(first, computed=19)], [1])
        third = replace(first, computed=19)
        rig.close(rig.run([third], [1])[0], rig.expected(first, 19, 20))

    def test_slot_minus_one_writes_nothing(self, rig: AttentionRig) -> None:
        sequences = [rig.add(24), rig.add(5)]
        rig.run(sequences, [23, 4])
        before = {name: tensor.clone() for name, tensor in rig.kv.items()}
        batch = rig.batch(sequences, [1, 1])
        batch.slot_mapping[:] = -1
        rig.run(sequences, [1, 1], batch)
        for name, tensor in rig.kv.items():
            assert _same_bytes(tensor, before[name]), f"{name} was written"
        # One row of several: its own slot stays, the others are written.
        for sequence, computed in zip(sequences, (23, 4), strict=True):
            sequence.computed = computed
        batch = rig.batch(sequences, [1, 1])
        batch.slot_mapping[0] = -1
        outs = rig.run(sequences, [1, 1], batch)
        rig.close(outs[1], rig.expected(sequences[1], 4, 5))

    def test_rows_may_be_computed_again(self, rig: AttentionRig) -> None:
        """Rejected drafts: their slots are overwritten, and what they held is forgotten."""
        sequence = rig.add(30)
        rig.run([sequence], [20])
        draft = replace(sequence, k=rig.normal(*sequence.k.shape), v=rig.normal(*sequence.v.shape))
        rig.run([draft], [6])
        rig.check([sequence], [2])
        rig.check([sequence], [1])

    def test_requests_may_share_blocks(self, rig: AttentionRig) -> None:
        first = rig.add(40)
        rig.run([first], [40])
        q, k, v = first.q.clone(), first.k.clone(), first.v.clone()
        for tensor in (q, k, v):
            tensor[32:] = rig.normal(*tensor[32:].shape)
        own = rig.add(8)  # for its block
        second = Request(q, k, v, [*first.blocks[:2], *own.blocks], computed=32)
        again = replace(first, computed=39)
        outs = rig.run([again, second], [1, 8])
        rig.close(outs[0], rig.expected(first, 39, 40))
        rig.close(outs[1], rig.expected(second, 32, 40))

    @pytest.mark.parametrize("name", ["plain", "window", "block-1"])
    def test_rows_may_be_requests_of_their_own(
        self, backend_class: type[AttentionBackend], device: str, name: str
    ) -> None:
        """Several rows of a request, each given as a request of one row: as captured steps compute drafts."""
        if backend_class.graph_support is GraphSupport.NONE:
            pytest.skip("takes no part in captured steps")
        rig = AttentionRig(backend_class, SHAPES[name], device=device, dtype=self.dtypes[0], num_blocks=100)
        sequences, counts = [rig.add(40), rig.add(21), rig.add(6)], [5, 1, 3]
        rig.run(sequences, [33, 20, 2])
        rows = [
            replace(sequence, computed=sequence.computed + ahead)
            for sequence, count in zip(sequences, counts, strict=True)
            for ahead in range(count)
        ]
        outs = torch.cat(rig.run(rows, [1] * len(rows)))
        expected = [
            rig.expected(sequence, sequence.computed, sequence.computed + count)
            for sequence, count in zip(sequences, counts, strict=True)
        ]
        rig.close(outs, torch.cat(expected))

    def test_an_empty_batch_is_empty(self, rig: AttentionRig) -> None:
        assert rig.run([], []) == []
        sequence = rig.add(3)
        outs = rig.run([sequence], [0])
        assert outs[0].shape[0] == 0

    def test_inputs_may_be_strided(self, rig: AttentionRig) -> None:
        sequence = rig.add(20)
        heads, kv_heads, dim = rig.layer.num_q_heads, rig.layer.num_kv_heads, rig.layer.head_dim
        fused = torch.cat((sequence.q, sequence.k, sequence.v), dim=1)  # as one projection leaves them
        q, k, v = torch.split(fused, [heads, kv_heads, kv_heads], dim=1)
        metadata = rig.backend.plan(rig.batch([sequence], [20]))
        with torch.inference_mode():
            out = rig.backend.forward(q, k, v, rig.kv, metadata, rig.layer, rig.rope)
        rig.close(out.reshape(20, heads, dim), rig.expected(sequence, 0, 20))

    def test_one_plan_serves_all_layers(self, rig: AttentionRig) -> None:
        """Two layers of one step share the metadata, each with its own cache."""
        first, second = rig.add(20), rig.add(33)
        metadata = rig.backend.plan(rig.batch([first, second], [20, 33]))
        for _ in range(2):
            layer_kv = {name: torch.zeros_like(tensor) for name, tensor in rig.kv.items()}
            for sequence in (first, second):
                for name in ("q", "k", "v"):
                    setattr(sequence, name, rig.normal(*getattr(sequence, name).shape))
            q, k, v = (torch.cat((getattr(first, n), getattr(second, n))) for n in ("q", "k", "v"))
            with torch.inference_mode():
                out = rig.backend.forward(q, k, v, layer_kv, metadata, rig.layer, rig.rope)
            rig.close(out[:20], rig.expected(first, 0, 20))
            rig.close(out[20:], rig.expected(second, 0, 33))

    def test_every_tensor_counts_blocks(self, rig: AttentionRig) -> None:
        for name, tensor in rig.layout.tensors.items():
            assert tensor.shape[tensor.block_axis] == rig.num_blocks, name


def _same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, NaN included."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
