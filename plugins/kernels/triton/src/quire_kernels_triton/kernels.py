"""`TritonKernels`: the operations that Triton computes faster on a GPU; the others are the reference's.

Dense products stay with cuBLAS, which is what the reference calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from quire.contracts import KernelsNeed
from quire.ops import Kernels
from quire_kernels_triton.availability import INSTALLED, unavailable
from quire_kernels_triton.quantized import TritonQuantizedOps
from quire_kernels_triton.sampling import TritonSamplingOps

if TYPE_CHECKING or INSTALLED:  # without Triton nothing is ever made but a reason
    from quire_kernels_triton import gates, gather, norms, rotary


class TritonKernels(TritonSamplingOps, TritonQuantizedOps, Kernels):
    """fp32, fp16 and bf16 in Triton; other dtypes, and what is not overridden, in plain PyTorch."""

    @classmethod
    def reject(cls, need: KernelsNeed) -> str | None:
        """Refuses machines where Triton cannot run, and deterministic needs: products are cuBLAS's."""
        return unavailable(need.device) or super().reject(need)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """As the reference, in one pass."""
        if not norms.takes(x, weight):
            return super().rms_norm(x, weight, eps)
        return norms.rms_norm(x, None, weight, eps)[0]

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the reference, in one pass."""
        if not norms.takes(x, weight) or residual.dtype != x.dtype or residual.shape != x.shape:
            return super().add_rms_norm(x, residual, weight, eps)
        return norms.rms_norm(x, residual, weight, eps)

    def rotary(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        cos_sin: torch.Tensor,
        positions: torch.Tensor,
        interleaved: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the reference, in one pass."""
        if not rotary.takes(q, k, cos_sin):
            return super().rotary(q, k, cos_sin, positions, interleaved)
        return rotary.rotary(q, k, cos_sin, positions, interleaved)

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor:
        """As the reference, in one pass."""
        if not _gates(x):
            return super().silu_and_mul(x)
        return gates.gate(x, gates.SILU)

    def gelu_and_mul(self, x: torch.Tensor, approximate: Literal["none", "tanh"] = "none") -> torch.Tensor:
        """As the reference, in one pass."""
        if not _gates(x):
            return super().gelu_and_mul(x, approximate)
        return gates.gate(x, gates.GELU if approximate == "none" else gates.GELU_TANH)

    def embedding(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """As the reference; the row of an id outside the table is NaN."""
        if not gather.takes(ids, table):
            return super().embedding(ids, table)
        return gather.gather(ids, table)


def _gates(x: torch.Tensor) -> bool:
    """Whether there is anything to compute, in a dtype that kernels know."""
    return x.numel() > 0 and x.is_floating_point() and x.element_size() <= 4
