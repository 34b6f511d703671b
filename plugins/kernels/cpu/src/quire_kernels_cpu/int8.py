"""`Int8Ops`: layers of int8 weights and int8 activations, multiplied by the native library.

Takes what has one scale per output channel, no zero points, and activations quantized per token to int8;
every other form is left to the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from quire.contracts import KernelsInit, QuantizedWeight
from quire.ops import PackedQuantized
from quire.ops.quantized import QuantizedOps
from quire_native_cpu import Library
from quire_native_cpu.arena import Arena
from quire_native_cpu.dtypes import DTYPES

_COLUMNS = 16
_MOST_INPUTS = 1 << 16
"""Sums of more products of 8-bit codes could be more than 31 bits."""


@dataclass(frozen=True, slots=True)
class _Int8Weight:
    """A matrix as `int8_weight.h` describes it.

    Attributes:
        codes: packed, uint8.
        sums: `[N padded]` int32.
        scales, bias: `[N padded]` fp32; bias may be None.
        inputs, outputs: K and N.
    """

    codes: torch.Tensor
    sums: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    inputs: int
    outputs: int

    @property
    def nbytes(self) -> int:
        held = (self.codes, self.sums, self.scales, self.bias)
        return sum(tensor.nbytes for tensor in held if tensor is not None)


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
        return reference if not _takes(weight) else self._pack(weight)

    def w8a8_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included, in x's dtype. fp16 goes through fp32."""
        weight = packed.data
        if not isinstance(weight, _Int8Weight):
            reference = super().w8a8_linear
            return self._by_reference(x, lambda rows: reference(rows, packed))
        if x.dtype not in DTYPES:
            return self.w8a8_linear(x.float(), packed).to(x.dtype)
        rows = x.reshape(-1, weight.inputs)
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        out = torch.empty(rows.shape[0], weight.outputs, dtype=x.dtype)
        if rows.shape[0]:
            self._library.calls.quire_int8_linear(
                rows.data_ptr(),
                rows.stride(0),
                rows.shape[0],
                DTYPES[x.dtype],
                weight.codes.data_ptr(),
                weight.sums.data_ptr(),
                weight.scales.data_ptr(),
                None if weight.bias is None else weight.bias.data_ptr(),
                weight.inputs,
                weight.outputs,
                out.data_ptr(),
                torch.get_num_threads(),
            )
        return out.view(*x.shape[:-1], weight.outputs)

    def wna16_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        """As the reference."""
        reference = super().wna16_linear
        return self._by_reference(x, lambda rows: reference(rows, packed))

    def _by_reference(self, x: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The reference's product; row by row where bits count, for it sums in an order that rows change."""
        if not self.init.need.deterministic or x.numel() == 0:
            return product(x)
        rows = x.reshape(-1, x.shape[-1])
        # The copy is aligned as any row's: BLAS may sum in another order where memory is not.
        out = torch.cat([product(rows[i : i + 1].clone()) for i in range(rows.shape[0])])
        return out.view(*x.shape[:-1], out.shape[-1])

    def _pack(self, weight: QuantizedWeight) -> PackedQuantized:
        inputs, outputs = weight.codes.shape
        padded = -(-outputs // _COLUMNS) * _COLUMNS
        calls = self._library.calls
        codes = self._arena.take(calls.quire_int8_bytes(inputs, outputs))
        sums = torch.empty(padded, dtype=torch.int32)
        rows = weight.codes.t().contiguous()  # [N, K]: a copy only of what was not laid out so
        calls.quire_int8_pack(
            rows.data_ptr(), inputs, outputs, codes.data_ptr(), sums.data_ptr(), torch.get_num_threads()
        )
        scales = _padded(weight.scales[0], padded)
        bias = None if weight.bias is None else _padded(weight.bias, padded)
        made = _Int8Weight(codes, sums, scales, bias, inputs, outputs)
        return PackedQuantized(made, made.nbytes)


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


def _padded(vector: torch.Tensor, size: int) -> torch.Tensor:
    """`[N]` as fp32 with zeros up to `size`."""
    out = torch.zeros(size, dtype=torch.float32)
    out[: vector.shape[0]] = vector
    return out
