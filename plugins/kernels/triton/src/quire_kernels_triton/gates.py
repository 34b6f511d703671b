"""Gated activations: SiLU and GELU of one half of a row, times the other half."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.rows import Rows, launch_options

SILU, GELU, GELU_TANH = 0, 1, 2
COLUMNS = 1024
"""Columns of a program of four warps: 16 bytes for each thread of 16-bit rows."""


@triton.jit
def gate_kernel(  # type: ignore[no-untyped-def]
    x,
    out,
    width,
    inner,
    outer_stride,
    inner_stride,
    ACTIVATION: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    start = x + (row // inner) * outer_stride + (row % inner) * inner_stride
    gate = tl.load(start + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + width + column, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == 0:
        active = gate / (1.0 + tl.exp(-gate))
    elif ACTIVATION == 1:
        active = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        # 0.5 (1 + tanh(y)) is the sigmoid of 2y.
        twice = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
        active = gate / (1.0 + tl.exp(-twice))
    active = active.to(out.dtype.element_ty).to(tl.float32)  # rounded as the reference rounds
    tl.store(out + row * width + column, (active * up).to(out.dtype.element_ty), mask=inside)


def gate(x: torch.Tensor, activation: int) -> torch.Tensor:
    """`activation(gate) * up` of x = [gate, up]: `[..., 2I] -> [..., I]`."""
    width = x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    rows = Rows.of(x)
    kernel: Any = gate_kernel
    kernel[(rows.count, triton.cdiv(width, COLUMNS))](
        rows.data,
        out,
        width,
        rows.inner,
        rows.outer_stride,
        rows.inner_stride,
        ACTIVATION=activation,
        COLUMNS=COLUMNS,
        **launch_options(4),
    )
    return out
