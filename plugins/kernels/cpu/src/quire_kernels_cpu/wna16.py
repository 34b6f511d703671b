"""`Wna16Ops`: layers of weights of 8 bits or fewer and floating-point activations, by the native library.

Takes every form of `QuantizedWeight` without an activation scheme. Codes of 2 and 3 bits are kept in 4.
"""

from __future__ import annotations

import torch

from quire.contracts import KernelsInit, QuantizedWeight
from quire.errors import PluginError
from quire.ops import PackedQuantized
from quire.ops.quantized import QuantizedOps
from quire_native_cpu import Library
from quire_native_cpu.arena import Arena
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.wna16 import NativeWna16, multiply, pack


class Wna16Ops(QuantizedOps):
    """Mixed into kernels that have loaded the library.

    Codes are multiplied as they are and sums scaled in fp32. Unless the need is deterministic, many bf16 rows
    may be multiplied by weights rounded to bf16 instead; otherwise a row's bits depend on that row alone.
    """

    init: KernelsInit
    _library: Library
    _arena: Arena

    def pack_wna16(self, weight: QuantizedWeight) -> PackedQuantized:
        """As the reference, with the codes in the order in which the processor's dot products take them.

        Raises:
            PluginError: as the reference; a code or a group is out of range.
        """
        reference = super().pack_wna16(weight)
        if 0 in weight.codes.shape:
            return reference
        index, groups = weight.group_index, weight.scales.shape[0]
        if index is not None and not 0 <= int(index.min()) <= int(index.max()) < groups:
            raise PluginError(
                f"Quantized weight: group_index goes from {int(index.min())} to {int(index.max())}, "
                f"but there are {groups} groups."
            )
        packed = pack(self._library, self._arena, weight, exact=self.init.need.deterministic)
        if packed is None:
            raise PluginError(
                f"Quantized weight of {weight.bits} bits: codes from {int(weight.codes.min())} to "
                f"{int(weight.codes.max())} do not fit."
            )
        return PackedQuantized(packed, packed.nbytes)

    def wna16_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included, in x's dtype. fp16 goes through fp32."""
        weight = packed.data
        if not isinstance(weight, NativeWna16):
            return super().wna16_linear(x, packed)
        if x.dtype not in DTYPES:
            return multiply(self._library, x.float(), weight).to(x.dtype)
        return multiply(self._library, x, weight)
