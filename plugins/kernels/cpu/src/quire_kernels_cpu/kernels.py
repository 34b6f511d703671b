"""`CpuKernels`: the operations that the C++ library computes faster; the others are the reference's.

Knows tensors and their addresses. How things are computed is described in `quire_native_cpu/csrc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from weakref import ref

import torch

from quire.contracts import DecoderLayerParts, FusedLayer, FusedStack, KernelsInit, KernelsNeed
from quire.errors import PluginError
from quire.ops import Kernels
from quire.ops.linear import PackedLinear
from quire_kernels_cpu.decoder_layer import CpuDecoderLayer, describe
from quire_kernels_cpu.decoder_stack import CpuDecoderStack
from quire_kernels_cpu.int8 import Int8Ops
from quire_kernels_cpu.options import CpuKernelsOptions
from quire_kernels_cpu.sampling import NativeSamplingOps
from quire_kernels_cpu.wna16 import Wna16Ops
from quire_native_cpu import UnavailableError, load
from quire_native_cpu.arena import Arena
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.layer import ACTIVATIONS
from quire_native_cpu.linear import NativeLinear, as_rows, multiply, multiply_head, pack
from quire_native_cpu.memory import Memory

_NAMES = [str(dtype).removeprefix("torch.") for dtype in DTYPES]


class CpuKernels(Int8Ops, Wna16Ops, NativeSamplingOps, Kernels):
    """fp32, bf16 and quantized in C++; other dtypes, and what is not overridden here, in plain PyTorch."""

    @classmethod
    def reject(cls, need: KernelsNeed) -> str | None:
        """Refuses other devices, machines without the library, deterministic fp16."""
        if need.device != "cpu":
            return f"runs on cpu, not on {need.device}"
        if need.deterministic and need.dtype not in _NAMES:
            return f"is deterministic in {' and '.join(_NAMES)}; {need.dtype} is left to PyTorch"
        try:
            load()
        except UnavailableError as error:
            return str(error)
        return None

    def __init__(self, init: KernelsInit) -> None:
        """Load the library.

        Raises:
            PluginError: it lacks the instruction set that the options name.
        """
        super().__init__(init)
        options = init.options if isinstance(init.options, CpuKernelsOptions) else CpuKernelsOptions()
        try:
            self._library = load(options.isa)
        except UnavailableError as error:
            raise PluginError(f"kernels.cpu: {error}") from error
        self._fuse = options.fuse
        self._arena = Arena(self._library)
        self._scratch = Memory()  # the same for every layer: what is in it lasts for one call

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """As the reference, in one pass."""
        if not _takes(x, weight):
            return super().rms_norm(x, weight, eps)
        return self._norm(x, None, weight, eps)[0]

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the reference, in one pass."""
        if not _takes(x, weight) or residual.dtype != x.dtype:
            return super().add_rms_norm(x, residual, weight, eps)
        return self._norm(x, residual, weight, eps)

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor:
        """As the reference, in one pass."""
        return self._gate(x, "silu") if _takes(x) else super().silu_and_mul(x)

    def gelu_and_mul(self, x: torch.Tensor, approximate: Literal["none", "tanh"] = "none") -> torch.Tensor:
        """As the reference, in one pass."""
        if not _takes(x):
            return super().gelu_and_mul(x, approximate)
        return self._gate(x, "gelu_pytorch_tanh" if approximate == "tanh" else "gelu")

    def embedding(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Rows of a table, of any dtype."""
        out = torch.empty((*ids.shape, table.shape[-1]), dtype=table.dtype)
        taken = (
            ids.dtype == torch.int64
            and ids.is_contiguous()
            and table.stride(1) == 1
            and self._library.calls.quire_embedding(
                ids.data_ptr(),
                ids.numel(),
                table.data_ptr(),
                table.stride(0) * table.element_size(),
                table.shape[0],
                table.shape[1] * table.element_size(),
                out.data_ptr(),
                torch.get_num_threads(),
            )
        )
        return out if taken else super().embedding(ids, table)  # which names an id that is out of range

    def pack_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
        """Lay the weight out in panels; the original may be dropped."""
        if not _takes(weight):
            return super().pack_linear(weight, bias)
        return pack(self._library, self._arena, weight, bias)

    def linear(self, x: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included; x in the weight's dtype."""
        if not isinstance(packed, NativeLinear):
            return super().linear(x, packed)
        return multiply(self._library, x, packed)

    def head(self, hidden: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
        """`[R, K] -> [R, N]`; the rows' peaks, found on the way, are kept for `peak`."""
        if not isinstance(packed, NativeLinear):
            return super().head(hidden, packed)
        logits, found = multiply_head(self._library, hidden, packed)
        self._found = ref(logits), found
        return logits

    def decoder_layer(self, parts: DecoderLayerParts) -> FusedLayer | None:
        """One call for the layer, if its attention and its linears are this library's."""
        native = describe(parts, self._library) if self._fuse else None
        return None if native is None else CpuDecoderLayer(self._library, native, parts, self._scratch)

    def decoder_stack(self, layers: Sequence[FusedLayer]) -> FusedStack | None:
        """One call for all layers, if each is this library's."""
        own = [layer for layer in layers if isinstance(layer, CpuDecoderLayer)]
        return CpuDecoderStack(self._library, own, self._scratch) if len(own) == len(layers) else None

    def _norm(
        self, x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = as_rows(x)
        others = None if residual is None else as_rows(residual)
        out = torch.empty(x.shape, dtype=x.dtype)
        total = out if others is None else torch.empty(x.shape, dtype=x.dtype)
        self._library.calls.quire_rms_norm(
            rows.data_ptr(),
            rows.stride(0),
            None if others is None else others.data_ptr(),
            0 if others is None else others.stride(0),
            weight.data_ptr(),
            eps,
            *rows.shape,
            DTYPES[x.dtype],
            out.data_ptr(),
            total.data_ptr(),
            torch.get_num_threads(),
        )
        return out, total

    def _gate(self, x: torch.Tensor, activation: str) -> torch.Tensor:
        rows = as_rows(x)
        width = x.shape[-1] // 2
        out = torch.empty((*x.shape[:-1], width), dtype=x.dtype)
        self._library.calls.quire_gate(
            rows.data_ptr(),
            rows.stride(0),
            ACTIVATIONS[activation],
            rows.shape[0],
            width,
            DTYPES[x.dtype],
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out


def _takes(x: torch.Tensor, weight: torch.Tensor | None = None) -> bool:
    """Whether the library computes in these dtypes, and there is something to compute."""
    if x.dtype not in DTYPES or x.numel() == 0:
        return False
    return weight is None or (weight.dtype == x.dtype and weight.is_contiguous())
