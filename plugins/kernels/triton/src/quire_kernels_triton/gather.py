"""Rows of a table by index: token embedding, and the rows of hidden states that get logits."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.rows import launch_options

COLUMNS = 1024
"""Columns of a program of four warps: 16 bytes for each thread of 16-bit rows."""


@triton.jit
def gather_kernel(  # type: ignore[no-untyped-def]
    ids, table, out, entries, width, stride, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    index = tl.load(ids + row).to(tl.int64) + tl.zeros([COLUMNS], tl.int64)
    # An index past the table reads nothing of anybody's: its row is NaN, and fails by itself.
    known = inside & (index >= 0) & (index < entries)
    value = tl.load(table + index * stride + column, mask=known, other=float("nan"))
    tl.store(out + row * width + column, value, mask=inside)


def takes(ids: torch.Tensor, table: torch.Tensor) -> bool:
    """Whether the kernel reads such a table, and there is something to read."""
    return ids.numel() > 0 and table.numel() > 0 and table.is_floating_point() and table.stride(1) == 1


def gather(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """`table[ids]`: ids `[...]`, table `[V, H]` -> `[..., H]`."""
    entries, width = table.shape
    out = torch.empty((*ids.shape, width), dtype=table.dtype, device=table.device)
    kernel: Any = gather_kernel
    kernel[(ids.numel(), triton.cdiv(width, COLUMNS))](
        ids.contiguous(), table, out, entries, width, table.stride(0), COLUMNS=COLUMNS, **launch_options(4)
    )
    return out
