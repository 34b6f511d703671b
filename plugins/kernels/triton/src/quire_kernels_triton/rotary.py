"""Rotary position embedding of queries and keys in one launch.

Every element is computed by itself from its own value, its partner's (which the cache holds: the
partner is of the same head) and the position's cosine and sine; so pairs may lie as they like.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.rows import launch_options, power_of_two

ELEMENTS = 2048
"""Elements of a program of four warps."""


@triton.jit
def rotary_kernel(  # type: ignore[no-untyped-def]
    q,
    k,
    cos_sin,
    positions,
    out,
    q_heads,
    heads,
    head_dim,
    rotary_dim,
    q_token_stride,
    q_head_stride,
    k_token_stride,
    k_head_stride,
    INTERLEAVED: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    column = tl.arange(0, COLUMNS)
    half = rotary_dim // 2
    if INTERLEAVED:
        pair = column // 2
        first = column % 2 == 0
        partner = column ^ 1
    else:
        pair = column % half
        first = column < half
        partner = tl.where(first, column + half, column - half)
    rotated = column < rotary_dim
    position = tl.load(positions + token).to(tl.int64)
    row = cos_sin + position * rotary_dim
    cos = tl.load(row + pair, mask=rotated, other=1.0)
    sin = tl.load(row + half + pair, mask=rotated, other=0.0)
    sin = tl.where(first, -sin, sin)

    inside = (head < heads)[:, None] & (column < head_dim)[None, :]
    of_q = (head < q_heads)[:, None]
    q_start = token * q_token_stride + head * q_head_stride
    k_start = token * k_token_stride + (head - q_heads) * k_head_stride
    of_k = (head >= q_heads)[:, None]
    own_q = tl.load(q + q_start[:, None] + column[None, :], mask=inside & of_q, other=0.0)
    own_k = tl.load(k + k_start[:, None] + column[None, :], mask=inside & of_k, other=0.0)
    paired = inside & rotated[None, :]
    other_q = tl.load(q + q_start[:, None] + partner[None, :], mask=paired & of_q, other=0.0)
    other_k = tl.load(k + k_start[:, None] + partner[None, :], mask=paired & of_k, other=0.0)
    own, other = tl.where(of_q, own_q, own_k), tl.where(of_q, other_q, other_k)
    turned = own.to(tl.float32) * cos[None, :] + other.to(tl.float32) * sin[None, :]
    value = tl.where(rotated[None, :], turned.to(own.dtype), own)
    start = (token * heads + head) * head_dim
    tl.store(out + start[:, None] + column[None, :], value, mask=inside)


def takes(q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor) -> bool:
    """Whether the kernel reads such tensors, and there is something to rotate."""
    contiguous = q.stride(2) == 1 and k.stride(2) == 1 and cos_sin.is_contiguous()
    return contiguous and q.shape[0] > 0 and q.dtype == k.dtype and cos_sin.dtype == torch.float32


def rotary(
    q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor, interleaved: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k rotated, as views of one `[T, Hq + Hk, D]`."""
    tokens, q_heads, head_dim = q.shape
    heads = q_heads + k.shape[1]
    out = torch.empty((tokens, heads, head_dim), dtype=q.dtype, device=q.device)
    columns = power_of_two(head_dim)
    tile = min(power_of_two(heads), max(1, ELEMENTS // columns))
    kernel: Any = rotary_kernel
    kernel[(tokens, triton.cdiv(heads, tile))](
        q,
        k,
        cos_sin,
        positions.contiguous(),
        out,
        q_heads,
        heads,
        head_dim,
        cos_sin.shape[1],
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        INTERLEAVED=interleaved,
        HEADS=tile,
        COLUMNS=columns,
        **launch_options(4),
    )
    return out[:, :q_heads], out[:, q_heads:]
