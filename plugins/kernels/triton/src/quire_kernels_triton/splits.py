"""Products shared out along K: how many programs meet a tile of outputs, and the sum of what they leave.

Partial sums lie in fp32, one matrix for each split, and are added in the order of K: no atomics, so that
a result does not depend on who comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.rows import launch_options

COLUMNS = 256
"""Outputs of a program of the sum: two for each thread of four warps."""


@dataclass(frozen=True, slots=True)
class Split:
    """Work along K.

    Attributes:
        count: programs that share it.
        tiles: of each; the last may have fewer, and has one at least.
    """

    count: int
    tiles: int


def split(tiles: int, programs: int, wanted: int, fewest: int) -> Split:
    """Shares `tiles` out so that `programs` times the splits are near `wanted`.

    Args:
        tiles: steps along K, 1 or more.
        programs: that there are without splitting.
        wanted: that would fill the device.
        fewest: tiles of a split.
    """
    count = max(1, min(wanted // programs, tiles // fewest))
    each = -(-tiles // count)
    return Split(-(-tiles // each), each)


@triton.jit
def sum_splits_kernel(  # type: ignore[no-untyped-def]
    partial, bias, out, rows, outputs, splits, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < outputs
    total = tl.zeros([COLUMNS], tl.float32)
    for part in range(splits):
        total += tl.load(partial + (part * rows + row) * outputs + column, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * outputs + column, total.to(out.dtype.element_ty), mask=inside)


def sum_splits(partial: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """`out = partial.sum(0) + bias`: partial `[S, M, N]` fp32, out `[M, N]`."""
    splits, rows, outputs = partial.shape
    kernel: Any = sum_splits_kernel
    kernel[(rows, triton.cdiv(outputs, COLUMNS))](
        partial, bias, out, rows, outputs, splits, COLUMNS=COLUMNS, **launch_options(4)
    )
