"""The part of `AttentionSuite` that holds backends to a deterministic need.

Runs for backends that accept `AttentionNeed(deterministic=True)`, and is skipped with their reason
otherwise. One request is attended whole and alone; then in chunks, row by row, among neighbours, on a prefix
that another request computed, and in other blocks. All bits have to be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from quire.contracts import AttentionBackend
from quire.testing.attention_rig import AttentionRig, Request, Shape
from quire.testing.batch_invariance import same_bits

INVARIANT_SHAPES = {
    "plain": Shape(),
    "head-64": Shape(kv_heads=3, ratio=3, head_dim=64),
    "head-20": Shape(head_dim=20, block_size=5),
    "window": Shape(window=37, block_size=4),
    "cap": Shape(soft_cap=2.0),
}

LENGTH = 150
CHUNKS = [[1] * LENGTH, [64, 86], [33, 50, 67], [16] * 9 + [6], [149, 1]]

LONG = 700
"""A context that is split over KV, where a backend does that."""


class AttentionInvarianceChecks:
    """Mixed into `AttentionSuite`."""

    dtypes: Sequence[str]

    @pytest.mark.parametrize("chunks", CHUNKS, ids=lambda chunks: "-".join(map(str, chunks[:3])))
    @pytest.mark.parametrize("name", INVARIANT_SHAPES)
    def test_chunks_do_not_change_bits(
        self, backend_class: type[AttentionBackend], device: str, name: str, chunks: list[int]
    ) -> None:
        for dtype in self.dtypes:
            rig = _rig(backend_class, INVARIANT_SHAPES[name], device, dtype)
            subject = rig.add(LENGTH)
            again = _twin(rig, subject)
            expected = rig.run([subject], [LENGTH])[0]
            out = torch.cat([rig.run([again], [count])[0] for count in chunks])
            assert same_bits(out, expected)

    @pytest.mark.parametrize("name", INVARIANT_SHAPES)
    def test_neighbours_do_not_change_bits(
        self, backend_class: type[AttentionBackend], device: str, name: str
    ) -> None:
        for dtype in self.dtypes:
            rig = _rig(backend_class, INVARIANT_SHAPES[name], device, dtype)
            subject = rig.add(LENGTH)
            again = _twin(rig, subject)
            expected = rig.run([subject], [LENGTH])[0]
            others = [rig.add(total) for total in (90, 33, 260, 5)]
            outs = [
                rig.run([others[0], again, others[1]], [40, 17, 33])[1],
                rig.run([again, others[2]], [1, 100])[0],
                rig.run([others[0], others[2], again], [1, 1, 1])[2],
                rig.run([again, others[0]], [100, 20])[0],
                *(rig.run([others[2], again, others[3]], [3, 1, 0])[1] for _ in range(31)),
            ]
            assert same_bits(torch.cat(outs), expected)

    def test_a_long_decode_has_the_same_bits_in_any_batch(
        self, backend_class: type[AttentionBackend], device: str
    ) -> None:
        for dtype in self.dtypes:
            rig = _rig(backend_class, INVARIANT_SHAPES["head-64"], device, dtype)
            subject = rig.add(LONG)
            rig.run([subject], [LONG - 1])
            expected = rig.run([subject], [1])[0]
            others = [rig.add(total) for total in (20, 300, 64, 7, 130, 1, 33)]
            rig.run(others, [19, 299, 63, 6, 129, 0, 32])
            for batch in ([subject, others[0]], [*others[:4], subject, *others[4:]]):
                for sequence in batch:
                    sequence.computed = sequence.q.shape[0] - 1
                place = next(i for i, one in enumerate(batch) if one is subject)
                assert same_bits(rig.run(batch, [1] * len(batch))[place], expected)
            subject.computed = LONG - 70  # as the last row of a chunk
            assert same_bits(rig.run([subject], [70])[0][-1:], expected)

    def test_a_cached_prefix_does_not_change_bits(
        self, backend_class: type[AttentionBackend], device: str
    ) -> None:
        for dtype in self.dtypes:
            rig = _rig(backend_class, INVARIANT_SHAPES["plain"], device, dtype)
            subject = rig.add(LENGTH)
            expected = rig.run([subject], [LENGTH])[0]
            own = rig.add(LENGTH)  # for its blocks
            heirs = [
                replace(subject, blocks=[*subject.blocks[:6], *own.blocks[6:]], computed=96),
                replace(_twin(rig, subject), computed=0),
            ]
            outs = rig.run(heirs, [LENGTH - 96, 20])
            assert same_bits(outs[0], expected[96:])
            assert same_bits(outs[1], expected[:20])


def _rig(backend_class: type[AttentionBackend], shape: Shape, device: str, dtype: str) -> AttentionRig:
    """A rig under a deterministic need; the test is skipped if the backend rejects it."""
    return AttentionRig(backend_class, shape, device=device, dtype=dtype, num_blocks=400, deterministic=True)


def _twin(rig: AttentionRig, subject: Request) -> Request:
    """The same request in blocks of its own, nothing computed."""
    other = rig.add(subject.q.shape[0])
    return replace(other, q=subject.q, k=subject.k, v=subject.v)
