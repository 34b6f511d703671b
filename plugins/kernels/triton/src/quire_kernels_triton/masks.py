"""Masks of a bit per token, applied to rows of logits in one pass that reads the bits as they are."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.rows import launch_options

COLUMNS = 2048


@triton.jit
def mask_kernel(  # type: ignore[no-untyped-def]
    logits, stride, vocab, bits, width, mask_of_row, out, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < vocab
    x = tl.load(logits + row * stride + column, mask=inside, other=0.0)
    mask = row
    if mask_of_row is not None:
        mask = tl.load(mask_of_row + row).to(tl.int64)
    # A row without a mask reads the first one in vain.
    word = tl.load(bits + tl.maximum(mask, 0) * width + column // 32, mask=inside, other=0)
    word |= tl.minimum(mask, 0).to(tl.int32) >> 31
    legal = (word >> (column % 32)) & 1
    tl.store(out + row * vocab + column, tl.where(legal != 0, x, float("-inf")), mask=inside)


def keep_legal(logits: torch.Tensor, bits: torch.Tensor, mask_of_row: torch.Tensor | None) -> torch.Tensor:
    """`[R, V]` as the logits, -inf where a row's mask has no bit.

    Args:
        logits: `[R, V]`, rows contiguous.
        bits: `[M, W]` int32, contiguous.
        mask_of_row: `[R]` int32 on the device, -1 for a row without a mask; None if mask i is row i's.
    """
    rows, vocab = logits.shape
    out = torch.empty((rows, vocab), dtype=logits.dtype, device=logits.device)
    kernel: Any = mask_kernel
    kernel[(rows, triton.cdiv(vocab, COLUMNS))](
        logits,
        logits.stride(0),
        vocab,
        bits,
        bits.shape[1],
        mask_of_row,
        out,
        COLUMNS=COLUMNS,
        **launch_options(4),
    )
    return out
