"""What the backend promises beyond the suite: splits, long requests, rotation, bf16, caches of any size."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import KernelsInit, KernelsNeed, Rope
from quire.ops import Kernels
from quire.testing.attention_rig import AttentionRig, Request, Shape
from quire_attn_triton.metadata import StepMetadata


@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_ragged_batches_equal_dense_attention(
    make_rig: Callable[..., AttentionRig], data: st.DataObject
) -> None:
    shape = Shape(
        kv_heads=data.draw(st.integers(1, 2)),
        ratio=data.draw(st.sampled_from([1, 3, 4, 17])),
        head_dim=data.draw(st.sampled_from([64, 80, 96, 128, 192, 256])),
        block_size=data.draw(st.sampled_from([16, 32, 48, 64, 128])),
        window=data.draw(st.one_of(st.none(), st.integers(1, 80))),
        soft_cap=data.draw(st.sampled_from([None, 3.0])),
    )
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16"]))
    rig = make_rig(shape, dtype, seed=data.draw(st.integers(0, 99)))
    sequences = [rig.add(total) for total in data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=3))]
    for _ in range(data.draw(st.integers(1, 2))):
        left = [sequence.q.shape[0] - sequence.computed for sequence in sequences]
        rig.check(sequences, [data.draw(st.integers(0, rows)) for rows in left])


@pytest.mark.parametrize(("dtype", "window"), [("float32", None), ("float16", 230), ("bfloat16", None)])
def test_long_contexts_are_split(
    make_rig: Callable[..., AttentionRig], dtype: str, window: int | None
) -> None:
    rig = make_rig(Shape(kv_heads=1, ratio=3, head_dim=32, window=window, block_size=32), dtype)
    long, short = rig.add(430), rig.add(40)
    rig.run([long], [360])
    rig.run([short], [20])
    plan = rig.backend.plan(rig.batch([long, short], [1, 1]))
    assert isinstance(plan, StepMetadata)
    assert plan.splits[0, 0] > 2
    assert plan.splits[1, 0] == 1
    rig.check([long, short], [1, 1])
    rig.check([short, long], [1, 3])
    rig.check([short, long], [12, 1])
    rig.check([long, short], [40, 1])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(64, 64), (64, 48), (80, 20), (128, 64), (16, 0)])
def test_rotation_equals_the_reference(
    make_rig: Callable[..., AttentionRig], device: str, head_dim: int, rotary_dim: int, interleaved: bool
) -> None:
    rig = make_rig(Shape(head_dim=head_dim))
    sequence = rig.add(20)
    batch = rig.batch([sequence], [20])
    rope = None
    q, k = sequence.q, sequence.k
    if rotary_dim:
        angles = torch.randn(64, rotary_dim // 2)
        rope = Rope(torch.cat((angles.cos(), angles.sin()), dim=-1).to(device), interleaved)
        kernels = Kernels(KernelsInit(need=KernelsNeed(device=device, dtype="float32"), device=device))
        q, k = kernels.rotary(q, k, rope.cos_sin, batch.positions, interleaved=interleaved)
    before = sequence.q.clone()
    plan = rig.backend.plan(batch)
    out = rig.backend.forward(sequence.q, sequence.k, sequence.v, rig.kv, plan, rig.layer, rope)
    assert torch.equal(sequence.q, before)
    rig.rope = None
    rig.close(out, rig.expected(Request(q, k, sequence.v, sequence.blocks), 0, 20))


def test_blocks_far_into_memory_are_found(make_rig: Callable[..., AttentionRig], device: str) -> None:
    """A block whose first element is number 2^31 or so: 32 bits would not count that far."""
    if device != "cpu":
        pytest.skip("the GPU's own test takes real memory")
    shape = Shape(kv_heads=2, ratio=2, head_dim=64, block_size=16)
    rig = make_rig(shape, "float16")
    per_block = 2 * 16 * 64
    far = 2**31 // per_block + 3
    # Address space alone: pages that nobody touches take no memory.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    spaces = [mmap.mmap(-1, (far + 4) * per_block * 2, flags=flags) for _ in range(2)]
    near = [torch.frombuffer(space, dtype=torch.float16, count=per_block) for space in spaces]
    # The tensors end after the null block, and the kernels look beyond, as a table of blocks tells them to.
    rig.kv = {name: x.view(1, 2, 16, 64) for name, x in zip(("k", "v"), near, strict=True)}
    q = rig.normal(40, 4, 64)
    k, v = (rig.normal(40, 2, 64) for _ in range(2))
    sequence = Request(q, k, v, [far, far + 2, far + 1])
    rig.check([sequence], [30])
    rig.check([sequence], [1])
    rig.check([sequence], [9])
    written = torch.frombuffer(spaces[1], dtype=torch.float16, count=per_block, offset=far * per_block * 2)
    assert torch.equal(written.view(2, 16, 64).transpose(0, 1), sequence.v[:16])
    assert not any(x.any() for x in near)


def test_a_block_table_far_into_memory_is_read(make_rig: Callable[..., AttentionRig], device: str) -> None:
    """A request whose row of the table begins at entry number 2^31."""
    if device != "cpu":
        pytest.skip("the GPU's own test takes real memory")
    rig = make_rig(Shape(head_dim=32))
    sequences = [rig.add(total) for total in (30, 20, 70)]
    stride = 2**30
    # Address space alone, as above.
    space = mmap.mmap(-1, (2 * stride + 64) * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    entries = torch.frombuffer(space, dtype=torch.int32)
    for counts in ([29, 19, 60], [1, 1, 1], [0, 0, 9]):
        batch = rig.batch(sequences, counts)
        table = entries.as_strided(batch.block_table.shape, (stride, 1))
        table.copy_(batch.block_table)
        batch.block_table = table
        starts = [sequence.computed for sequence in sequences]
        outs = rig.run(sequences, counts, batch)
        for sequence, start, out in zip(sequences, starts, outs, strict=True):
            rig.close(out, rig.expected(sequence, start, sequence.computed))
