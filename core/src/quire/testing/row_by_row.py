"""`RowByRowKernels`: batch-invariant kernels, for suites that need some and no speed.

Every row goes through the reference alone and from aligned memory of its own, so that the shape and place of
what is computed are the same in any batch. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from quire.contracts import KernelsNeed
from quire.ops import Kernels, PackedLinear, PackedQuantized


class RowByRowKernels(Kernels):
    """The reference, one row at a time; serves a deterministic need."""

    @classmethod
    def reject(cls, need: KernelsNeed) -> str | None:
        return None

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        norm = super().rms_norm
        return _each(x, lambda row: norm(row, weight, eps))

    def rotary(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        cos_sin: torch.Tensor,
        positions: torch.Tensor,
        interleaved: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if q.shape[0] == 0:
            return super().rotary(q, k, cos_sin, positions, interleaved)
        rows = [
            super(RowByRowKernels, self).rotary(
                q[i : i + 1], k[i : i + 1], cos_sin, positions[i : i + 1], interleaved
            )
            for i in range(q.shape[0])
        ]
        return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor:
        return _each(x, super().silu_and_mul)

    def gelu_and_mul(self, x: torch.Tensor, approximate: Literal["none", "tanh"] = "none") -> torch.Tensor:
        gelu = super().gelu_and_mul
        return _each(x, lambda row: gelu(row, approximate))

    def linear(self, x: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
        linear = super().linear
        return _each(x, lambda row: linear(row, packed))

    def wna16_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        linear = super().wna16_linear
        return _each(x, lambda row: linear(row, packed))

    def w8a8_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        linear = super().w8a8_linear
        return _each(x, lambda row: linear(row, packed))


def _each(x: torch.Tensor, operation: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`operation` on every row of `[..., K]` by itself."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.shape[0] == 0:
        return operation(x)
    out = torch.cat([operation(rows[i : i + 1].clone()) for i in range(rows.shape[0])])
    return out.view(*x.shape[:-1], out.shape[-1])
