"""A cache in fp8: what is stored, and that attention is exact over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from quire.contracts import AttentionInit
from quire.testing.attention_rig import AttentionRig, Shape
from quire_attn_triton.backend import TritonAttention
from quire_attn_triton.work import FP8

# A conversion of NaN and infinities, which fill blocks that nobody has, makes NumPy warn.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class Fp8Attention(TritonAttention):
    """The backend with an fp8 cache, whatever the need says."""

    def __init__(self, init: AttentionInit) -> None:
        cache = replace(init.need.cache, dtype=FP8)
        super().__init__(replace(init, need=replace(init.need, cache=cache)))


def dequantised(rig: AttentionRig, name: str) -> torch.Tensor:
    """K or V as the cache holds it, `[num_blocks, Hkv, block_size, D]`."""
    return rig.kv[name].to(torch.float32) * rig.kv[f"{name}_scale"].unsqueeze(-1)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("float32", Shape(kv_heads=1, head_dim=32)),
        ("float16", Shape(head_dim=64)),
        ("bfloat16", Shape(kv_heads=1, head_dim=80, window=40, soft_cap=3.0, block_size=32)),
    ],
    ids=["float32", "float16", "bfloat16-window-cap"],
)
def test_attention_is_that_over_what_is_stored(
    make_rig: Callable[..., AttentionRig], dtype: str, shape: Shape
) -> None:
    rig, exact = make_rig(shape, dtype, backend=Fp8Attention), make_rig(shape, dtype)
    sequences = [rig.add(total) for total in (100, 30, 12)]
    rig.run(sequences, [85, 29, 5])
    for counts in ([1, 1, 1], [14, 0, 3]):
        batch = rig.batch(sequences, counts)
        starts = [sequence.computed for sequence in sequences]
        outs = rig.run(sequences, counts, batch)
        exact.kv = {name: dequantised(rig, name).to(exact.dtype) for name in ("k", "v")}
        for name in exact.kv:
            exact.kv[name][0] = 0
        batch.slot_mapping[:] = -1
        for sequence, start in zip(sequences, starts, strict=True):
            sequence.computed = start
        wanted = exact.run(sequences, counts, batch)
        for out, same in zip(outs, wanted, strict=True):
            rig.close(out, same)


def test_stored_heads_are_near_to_what_was_written(make_rig: Callable[..., AttentionRig]) -> None:
    rig = make_rig(Shape(head_dim=64, block_size=16), backend=Fp8Attention)
    sequence = rig.add(20)
    sequence.v *= torch.logspace(-6, 6, 20, device=rig.device)[:, None, None]
    sequence.v[3] = 0
    rig.run([sequence], [20])
    stored = dequantised(rig, "v")[sequence.blocks].transpose(1, 2).flatten(0, 1)[:20]  # [20, Hkv, D]
    largest = sequence.v.abs().amax(-1, keepdim=True)
    # Half a step, which is 2^-3 of a number, or 2^-9 of what was stored where that is denormal.
    step = torch.maximum(sequence.v.abs() / 8, largest / 448 * 2**-9)
    assert ((stored - sequence.v).abs() <= 0.5001 * step).all()
    assert torch.equal(stored[3], sequence.v[3])


def test_it_is_near_to_attention_without(make_rig: Callable[..., AttentionRig]) -> None:
    rig = make_rig(Shape(head_dim=64), "float16", backend=Fp8Attention)
    sequence = rig.add(120)
    out = torch.cat(rig.run([sequence], [119]) + rig.run([sequence], [1])).double()
    wanted = rig.expected(sequence, 0, 120)
    assert (out - wanted).norm() / wanted.norm() < 0.05  # for three bits of fraction


def test_the_layout_has_scales(make_rig: Callable[..., AttentionRig]) -> None:
    rig = make_rig(Shape(kv_heads=3, head_dim=64, block_size=32), "bfloat16", backend=Fp8Attention)
    tensors = rig.backend.kv_layout(5).tensors
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        "k": ((5, 3, 32, 64), "float8_e4m3fn"),
        "v": ((5, 3, 32, 64), "float8_e4m3fn"),
        "k_scale": ((5, 3, 32), "float32"),
        "v_scale": ((5, 3, 32), "float32"),
    }
