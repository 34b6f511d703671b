"""The reference kernels with linears packed once for oneDNN, and leaner norms.

`F.linear` lets oneDNN reorder the weight in every call; here that happens at load. The
operators are those that torch.compile's CPU backend emits. Everything else is inherited.
`bench/linear.py` measures the gain.
"""

from __future__ import annotations

import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops.kernels import Kernels
from quire.ops.linear import PackedLinear

_BATCH_HINT = 256
"""Rows oneDNN chooses the layout for. Measured: bf16 layouts for 1 to 1024 rows differ by a tenth either
way; the fp32 layout for one row is up to twice slower at 8 rows and no faster at one."""


class TorchCpuKernels(Kernels):
    """Plain PyTorch on the CPU, linears packed for oneDNN in bf16 and fp32."""

    @classmethod
    def reject(cls, need: KernelsNeed) -> str | None:
        """Refuses other devices, builds of PyTorch without oneDNN, and what the reference refuses."""
        if need.device != "cpu":
            return f"runs on cpu, not on {need.device}"
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return "this build of PyTorch has no oneDNN (mkldnn)"
        if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            return f"PyTorch {torch.__version__} has no packed oneDNN linear"
        return super().reject(need)

    def __init__(self, init: KernelsInit) -> None:
        super().__init__(init)
        self._roots: dict[float, torch.Tensor] = {}

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """As the reference, with no copy of the squares and none but the first of the rows.

        sqrt(mean(x^2) + eps) is the hypotenuse of |x| / sqrt(H) and sqrt(eps), so no squares are kept.
        Operands of unequal dtypes would take PyTorch's slow path: five times as long at 2048 rows.
        """
        if eps not in self._roots:
            self._roots[eps] = torch.tensor(eps**0.5)
        wide = x.float() if x.dtype != torch.float32 else x.clone()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # [..., 1]
        rms = torch.hypot(length.mul_(x.shape[-1] ** -0.5), self._roots[eps])
        return wide.div_(rms).to(x.dtype).mul_(weight)

    def pack_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
        """Reorder the weight into oneDNN's blocked layout; the original may be dropped."""
        if weight.numel() == 0 or not _packs(weight.dtype):
            return super().pack_linear(weight, bias)
        blocked = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _BATCH_HINT)
        held = int(torch.ops.mkldnn._nbytes(blocked)) + (0 if bias is None else bias.nbytes)
        return PackedLinear(blocked, bias, held)

    def linear(self, x: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included; x in the weight's dtype."""
        if not packed.weight.is_mkldnn:
            return super().linear(x, packed)
        rows = x.numel() // x.shape[-1]
        padded = padded_rows(rows)
        if padded == rows:
            return _multiply(x, packed)
        wide = x.new_empty(padded, x.shape[-1])
        wide[:rows] = x.reshape(rows, -1)
        wide[rows:] = 0
        return _multiply(wide, packed)[:rows].view(*x.shape[:-1], -1)


def _multiply(x: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed.weight, packed.bias, "none", [], "")
    return out


def padded_rows(rows: int) -> int:
    """`rows`, or the next of few numbers: oneDNN compiles, and keeps, a primitive for each number of rows.

    Above 16 rows there are eight numbers to the octave, so that at most an eighth is computed for nothing.
    """
    if rows <= 16:
        return rows
    step = 1 << (rows.bit_length() - 4)
    return -(-rows // step) * step


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies packed weights of this dtype here. fp16 is left to F.linear: few CPUs do."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # needs AVX-512 or AVX-NE-CONVERT
    return dtype == torch.float32
