"""RMSNorm, with and without the residual addition before it: each row read once."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.rows import WIDEST, Rows, launch_options, whole_rows


@triton.jit
def rms_norm_kernel(  # type: ignore[no-untyped-def]
    x,
    residual,
    weight,
    out,
    total,
    eps,
    rows,
    width,
    x_inner,
    x_outer_stride,
    x_inner_stride,
    r_inner,
    r_outer_stride,
    r_inner_stride,
    HAS_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    column = tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < width)[None, :]
    start = (row // x_inner) * x_outer_stride + (row % x_inner) * x_inner_stride
    here = row[:, None] * width + column[None, :]
    value = tl.load(x + start[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        start = (row // r_inner) * r_outer_stride + (row % r_inner) * r_inner_stride
        value += tl.load(residual + start[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
        narrow = value.to(total.dtype.element_ty)  # the norm is that of the rounded sum
        tl.store(total + here, narrow, mask=inside)
        value = narrow.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, axis=1) / width + eps)  # [ROWS]
    normed = (value * inverse[:, None]).to(out.dtype.element_ty).to(tl.float32)
    scale = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(out + here, (normed * scale[None, :]).to(out.dtype.element_ty), mask=inside)


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernel computes such rows, and there is something to compute."""
    return x.numel() > 0 and x.shape[-1] <= WIDEST and x.is_floating_point() and weight.is_contiguous()


def rms_norm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(norm, x + residual)`, the latter x itself without a residual; `[..., H]` each."""
    own = Rows.of(x)
    other = own if residual is None else Rows.of(residual)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(out)
    tile = whole_rows(x.shape[-1])
    kernel: Any = rms_norm_kernel
    kernel[(triton.cdiv(own.count, tile.rows),)](
        own.data,
        other.data,
        weight,
        out,
        total,
        eps,
        own.count,
        x.shape[-1],
        own.inner,
        own.outer_stride,
        own.inner_stride,
        other.inner,
        other.outer_stride,
        other.inner_stride,
        HAS_RESIDUAL=residual is not None,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        **launch_options(tile.num_warps),
    )
    return out, total
