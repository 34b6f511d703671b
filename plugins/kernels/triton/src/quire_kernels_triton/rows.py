"""Rows of a tensor as kernels address them, and the tile sizes that follow from a row's width.

Knows shapes and strides, no operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

WIDEST = 65536
"""Elements of the widest row that a program holds in registers at once."""


@dataclass(frozen=True, slots=True)
class Rows:
    """`[..., H]` as rows: row r begins at `(r // inner) * outer_stride + (r % inner) * inner_stride`.

    Two strides are enough for every tensor of `[T, heads, D]` cut out of a fused projection.

    Attributes:
        data: the tensor, its last axis contiguous.
        count: number of rows.
        inner, outer_stride, inner_stride: see above; strides in elements.
    """

    data: torch.Tensor
    count: int
    inner: int
    outer_stride: int
    inner_stride: int

    @classmethod
    def of(cls, x: torch.Tensor) -> Rows:
        """Rows of a tensor, of a copy only where no two strides describe them."""
        width = x.shape[-1]
        count = x.numel() // width if width else 0
        if x.is_contiguous():
            return cls(x, count, 1, width, 0)
        if x.stride(-1) == 1 and x.dim() == 2:
            return cls(x, count, 1, x.stride(0), 0)
        if x.stride(-1) == 1 and x.dim() == 3:
            return cls(x, count, x.shape[1], x.stride(0), x.stride(1))
        return cls(x.contiguous(), count, 1, width, 0)


@dataclass(frozen=True, slots=True)
class Tile:
    """How a program covers rows.

    Attributes:
        rows, columns: powers of two.
        num_warps: warps of the program.
    """

    rows: int
    columns: int
    num_warps: int


def power_of_two(n: int) -> int:
    """The least power of two that is n or more."""
    return 1 << max(0, n - 1).bit_length()


def whole_rows(width: int) -> Tile:
    """A tile of whole rows: 16 bytes or more for each thread of narrow rows, 32 warps for the widest.

    Chosen by counting (at most 64 elements to a thread, so that nothing spills), not by measurement.
    """
    columns = power_of_two(width)
    rows = max(1, 1024 // columns)
    warps = min(32, max(4, columns // 1024))
    return Tile(rows, columns, warps)


def launch_options(num_warps: int) -> dict[str, Any]:
    """What every launch says to Triton's compiler.

    Products and sums are not fused: a kernel's arithmetic is then the interpreter's, and the same in every
    kernel that computes a thing anew. Left out, Triton warns that its default will change.
    """
    return {"num_warps": num_warps, "enable_fp_fusion": False}
