"""`TritonQuantizedOps`: linear layers with quantized weights. Knows which kernel takes what.

Beside quantized activations, weights with several groups or with zero points that do not fit in are the
reference's.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from quire.contracts import KernelsInit, QuantizedWeight
from quire.ops import PackedQuantized
from quire.ops.quantized import QuantizedOps, fp8_codes
from quire_kernels_triton.availability import INSTALLED, interpreted
from quire_kernels_triton.product_tables import DEQUANTIZE_ABOVE, PANEL_BYTES, WNA16, config_of
from quire_kernels_triton.words import PackedWords, pack

if TYPE_CHECKING or INSTALLED:
    from quire_kernels_triton import w8a8, wna16

FP8 = torch.float8_e4m3fn
ADA = (8, 9)
"""Compute capability: conversions to e4m3 and products of it came with it."""

ELSEWHERE = 4
"""Multiprocessors where there are none: in the interpreter."""


class TritonQuantizedOps(QuantizedOps):
    """Products of few rows unpack codes in registers; those of many dequantize into memory that all share."""

    init: KernelsInit
    _scratch: torch.Tensor | None = None  # bytes

    def pack_wna16(self, weight: QuantizedWeight) -> PackedQuantized:
        """As the reference: in words of 4-bit codes (2, 3 and 4 bits) or 8-bit ones.

        The memory that dequantizing needs grows with the largest layer, and is counted as that layer's.
        """
        checked = super().pack_wna16(weight)
        signed = weight.codes.dtype == torch.int8 and weight.bits == 8 and weight.zeros is None
        if 0 in weight.codes.shape or not (signed or weight.codes.dtype == torch.uint8):
            return checked
        packed = pack(weight)
        element = getattr(torch, self.init.need.dtype).itemsize
        size = packed.inputs * _panel(packed, element) * element
        grown = size - (0 if self._scratch is None else self._scratch.nbytes)
        if grown > 0:
            self._scratch = None
            self._scratch = torch.empty(size, dtype=torch.uint8, device=packed.words.device)
        return PackedQuantized(packed, packed.nbytes + max(grown, 0))

    def wna16_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        """As the reference; 16-bit activations meet exact codes, sums are in fp32."""
        weight = packed.data
        if not isinstance(weight, PackedWords):
            return super().wna16_linear(x, packed)
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], weight.outputs)
        rows = _rows(x if wna16.takes(x) else x.float())
        if rows.shape[0] > DEQUANTIZE_ABOVE[weight.bits]:
            out = wna16.multiply_dequantized(rows, weight, self._panel_for(rows.dtype, weight))
        else:
            config = config_of(WNA16, rows.element_size(), rows.shape[0])
            upcast = rows.dtype == torch.bfloat16 and self._interpreted
            out = wna16.multiply(rows, weight, config, self._multiprocessors, upcast)
        return out.view(*x.shape[:-1], weight.outputs).to(x.dtype)

    def pack_w8a8(self, weight: QuantizedWeight) -> PackedQuantized:
        """As the reference; int8 and e4m3 as they are where each output has one scale."""
        checked = super().pack_w8a8(weight)
        codes = None
        if weight.scales.shape[0] == 1 and 0 not in weight.codes.shape:
            codes = _int8(weight) if weight.activation == "int8_per_token" else self._fp8(weight)
        if codes is None:
            return checked
        packed = w8a8.PackedBytes(
            codes.t().contiguous(), weight.scales[0].float(), weight.bias, weight.input_scale
        )
        return PackedQuantized(packed, packed.nbytes)

    def w8a8_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        """As the reference; a row with NaN or infinity is NaN."""
        weight = packed.data
        if isinstance(weight, QuantizedWeight):
            return super().w8a8_linear(x, packed)
        assert isinstance(weight, w8a8.PackedBytes)
        outputs = weight.codes.shape[0]
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], outputs)
        rows = _rows(x if wna16.takes(x) else x.float())
        if weight.input_scale is None:
            codes, scales = w8a8.quantize_rows(rows, weight.codes.dtype, self._interpreted)
        else:
            codes = fp8_codes(rows.float(), weight.input_scale)
            scales = weight.input_scale.expand(rows.shape[0]).contiguous()
        if weight.codes.dtype == FP8:
            out = w8a8.multiply_fp8(codes, scales, weight, rows.dtype)
        else:
            out = w8a8.multiply_int8(codes, scales, weight, rows.dtype, self._multiprocessors)
        return out.view(*x.shape[:-1], outputs).to(x.dtype)

    def _panel_for(self, dtype: torch.dtype, weight: PackedWords) -> torch.Tensor:
        """Memory for a panel: the shared one, but for a dtype that is wider than the engine's."""
        wanted = weight.inputs * _panel(weight, dtype.itemsize)
        assert self._scratch is not None
        if wanted * dtype.itemsize > self._scratch.nbytes:
            return torch.empty(wanted, dtype=dtype, device=weight.words.device)
        return self._scratch[: wanted * dtype.itemsize].view(dtype)

    @cached_property
    def _interpreted(self) -> bool:
        return interpreted()

    @cached_property
    def _multiprocessors(self) -> int:
        if torch.device(self.init.device).type != "cuda":
            return ELSEWHERE
        return int(torch.cuda.get_device_properties(self.init.device).multi_processor_count)

    def _fp8(self, weight: QuantizedWeight) -> torch.Tensor | None:
        """Codes as e4m3, `[K, N]`, if they are such numbers and the device multiplies them."""
        device = torch.device(self.init.device)
        able = device.type != "cuda" or torch.cuda.get_device_capability(device) >= ADA
        if not able or weight.zeros is not None or any(size % 16 for size in weight.codes.shape):
            return None
        narrow = weight.codes if weight.codes.dtype == FP8 else weight.codes.float().to(FP8)
        same = narrow is weight.codes or torch.equal(narrow.float(), weight.codes.float())
        return narrow if same else None


def _int8(weight: QuantizedWeight) -> torch.Tensor | None:
    """Codes less their zero points, `[K, N]`, if these are int8."""
    if weight.codes.dtype == torch.int8 and weight.zeros is None:
        return weight.codes
    numbers = weight.codes.float() - (0 if weight.zeros is None else weight.zeros.float())
    narrow = numbers.clamp(-128, 127).to(torch.int8)
    return narrow if torch.equal(narrow.float(), numbers) else None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`[M, K]` with contiguous rows; a copy only where x has none."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _panel(weight: PackedWords, element: int) -> int:
    """Columns that are dequantized at a time: equal panels within `PANEL_BYTES`, of whole lines of memory."""
    panels = -(-weight.inputs * weight.outputs * element // PANEL_BYTES)
    return min(weight.outputs, -(-weight.outputs // panels // 64) * 64)
