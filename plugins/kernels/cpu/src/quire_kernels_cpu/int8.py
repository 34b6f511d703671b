"""`Int8Ops`: layers of int8 weights and int8 activations, multiplied by the native library.

Takes what has one scale per output channel, no zero points, and activations quantized per token to int8;
every other form is left to the reference.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from quire.contracts import KernelsInit, QuantizedWeight
from quire.ops import PackedQuantized
from quire.ops.quantized import QuantizedOps
from quire_native_cpu import Library
from quire_native_cpu.arena import Arena
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.int8 import NativeInt8, multiply, pack

_MOST_INPUTS = 1 << 16
"""Sums of more products of 8-bit codes could be more than 31 bits."""


class Int8Ops(QuantizedOps):
    """Mixed into kernels that have loaded the library.

    Whole numbers are summed exactly and the rest is done per row, so a row's bits depend on that row alone.
    """

    init: KernelsInit
    _library: Library
    _arena: Arena

    def pack_w8a8(self, weight: QuantizedWeight) -> PackedQuantized:
        """As the reference, with the codes in the order in which the processor's dot products take them."""
        reference = super().pack_w8a8(weight)
        if not _takes(weight):
            return reference
        packed = pack(self._library, self._arena, weight.codes.t(), weight.scales[0], weight.bias)
        return PackedQuantized(packed, packed.nbytes)

    def w8a8_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included, in x's dtype. fp16 goes through fp32."""
        weight = packed.data
        if not isinstance(weight, NativeInt8):
            reference = super().w8a8_linear
            return self._by_reference(x, lambda rows: reference(rows, packed))
        if x.dtype not in DTYPES:
            return multiply(self._library, x.float(), weight).to(x.dtype)
        return multiply(self._library, x, weight)

    def _by_reference(self, x: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The reference's product; row by row where bits count, for it sums in an order that rows change."""
        if not self.init.need.deterministic or x.numel() == 0:
            return product(x)
        rows = x.reshape(-1, x.shape[-1])
        # The copy is aligned as any row's: BLAS may sum in another order where memory is not.
        out = torch.cat([product(rows[i : i + 1].clone()) for i in range(rows.shape[0])])
        return out.view(*x.shape[:-1], out.shape[-1])


def _takes(weight: QuantizedWeight) -> bool:
    return (
        weight.activation == "int8_per_token"
        and weight.bits == 8
        and weight.codes.dtype == torch.int8
        and weight.zeros is None
        and weight.group_index is None
        and weight.scales.shape[0] == 1
        and 0 < weight.codes.shape[0] <= _MOST_INPUTS
        and weight.codes.shape[1] > 0
    )
