"""Activations quantized row by row, and their products with int8 weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.product_tables import W8A8, config_of
from quire_kernels_triton.rows import launch_options
from quire_kernels_triton.splits import split, sum_splits

SPAN, WARPS = 2048, 4
"""Elements that quantizing takes at a time: 16 for each thread."""

TILE = 128
"""Elements along K that a product takes at a time."""


@dataclass(frozen=True, slots=True)
class PackedBytes:
    """A weight of one scale for each output, whose codes are 8-bit numbers themselves.

    Attributes:
        codes: `[N, K]` int8 or float8_e4m3fn, contiguous.
        scales: `[N]` fp32.
        bias: `[N]` or None.
        input_scale: `[]` fp32 where activations have a static scale.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    input_scale: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        held = (self.codes, self.scales, self.bias, self.input_scale)
        return sum(tensor.nbytes for tensor in held if tensor is not None)


@triton.jit
def quantize_rows_kernel(  # type: ignore[no-untyped-def]
    x,
    codes,
    scales,
    width,
    stride,
    LARGEST: tl.constexpr,
    ROUND: tl.constexpr,
    SPAN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    within = tl.arange(0, SPAN)
    largest = tl.zeros([SPAN], tl.float32)
    # 0, or NaN of NaN and infinity: such a row's scale is NaN, and so is all that comes of it.
    flaw = tl.zeros([SPAN], tl.float32)
    for start in range(0, width, SPAN):
        column = start + within
        value = tl.load(x + row * stride + column, mask=column < width, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(value))
        flaw += value * 0.0
    least = 1.1754943508222875e-38 * LARGEST  # 2^-126, the smallest normal number, for a row of zeros
    scale = tl.div_rn(tl.maximum(tl.max(largest, 0), least), LARGEST * 1.0)
    tl.store(scales + row, scale + tl.sum(flaw, 0))
    for start in range(0, width, SPAN):
        column = start + within
        value = tl.load(x + row * stride + column, mask=column < width, other=0.0).to(tl.float32)
        code = tl.div_rn(value, tl.zeros([SPAN], tl.float32) + scale)
        if codes.dtype.element_ty == tl.int8:
            code = _to_whole(code)
        elif ROUND:
            # The interpreter's conversion to e4m3 cuts off: rounded here to its three bits of mantissa.
            exponent = tl.maximum((code.to(tl.int32, bitcast=True) >> 23) & 255, 127 - 6)
            step = ((exponent - 3) << 23).to(tl.float32, bitcast=True)
            code = _to_whole(code / step) * step
        tl.store(codes + row * width + column, code.to(codes.dtype.element_ty), mask=column < width)


@triton.jit
def _to_whole(value):  # type: ignore[no-untyped-def]
    """The nearest integer, halves to even, of numbers below 2^22: 1.5 * 2^23 has no room for fractions."""
    return (value + 12582912.0) - 12582912.0


@triton.jit
def w8a8_kernel(  # type: ignore[no-untyped-def]
    codes,
    row_scales,
    weight,
    scales,
    bias,
    out,
    rows,
    inputs,
    outputs,
    tiles,
    split_tiles,
    PARTIAL: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(2)
    within = tl.arange(0, TILE)
    is_row, is_column = (row < rows)[:, None], (column < outputs)[None, :]
    codes += row.to(tl.int64)[:, None] * inputs
    weight += column.to(tl.int64)[None, :] * inputs
    met = tl.zeros([ROWS, COLUMNS], tl.int32)
    for tile in range(part * split_tiles, tl.minimum((part + 1) * split_tiles, tiles)):
        k = tile * TILE + within
        some = tl.load(codes + k[None, :], mask=is_row & (k < inputs)[None, :], other=0)
        other = tl.load(weight + k[:, None], mask=is_column & (k < inputs)[:, None], other=0)
        met = tl.dot(some, other, met)
    scale = tl.load(row_scales + row, mask=row < rows, other=0.0)[:, None]
    total = met.to(tl.float32) * scale * tl.load(scales + column, mask=column < outputs, other=0.0)[None, :]
    inside = is_row & is_column
    place = row.to(tl.int64)[:, None] * outputs + column[None, :]
    if PARTIAL:
        tl.store(out + part.to(tl.int64) * rows * outputs + place, total, mask=inside)
    else:
        if bias is not None:
            total += tl.load(bias + column, mask=column < outputs, other=0.0).to(tl.float32)[None, :]
        tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


def quantize_rows(
    x: torch.Tensor, dtype: torch.dtype, interpreted: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes `[M, K]` of int8 or float8_e4m3fn, and scales `[M]` fp32; x `[M, K]`, its rows contiguous."""
    rows, width = x.shape
    codes = torch.empty(rows, width, dtype=dtype, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    kernel: Any = quantize_rows_kernel
    kernel[(rows,)](
        x,
        codes,
        scales,
        width,
        x.stride(0),
        LARGEST=127 if dtype == torch.int8 else 448,
        ROUND=interpreted,
        SPAN=SPAN,
        **launch_options(WARPS),
    )
    return codes, scales


def multiply_int8(
    codes: torch.Tensor,
    row_scales: torch.Tensor,
    packed: PackedBytes,
    dtype: torch.dtype,
    multiprocessors: int,
) -> torch.Tensor:
    """`[M, K] -> [M, N]` of `dtype`, bias included. Sums are exact but where K is shared out: fp32 then."""
    (rows, inputs), outputs = codes.shape, packed.codes.shape[0]
    config = config_of(W8A8, 1, rows)
    tiles = triton.cdiv(inputs, TILE)
    grid = (triton.cdiv(outputs, config.columns), triton.cdiv(rows, config.rows))
    shared = split(tiles, grid[0] * grid[1], multiprocessors * config.waves, config.fewest)
    out = torch.empty(rows, outputs, dtype=dtype, device=codes.device)
    target = out
    if shared.count > 1:
        target = torch.empty(shared.count, rows, outputs, dtype=torch.float32, device=codes.device)
    kernel: Any = w8a8_kernel
    kernel[(*grid, shared.count)](
        codes,
        row_scales,
        packed.codes,
        packed.scales,
        None if shared.count > 1 else packed.bias,
        target,
        rows,
        inputs,
        outputs,
        tiles,
        shared.tiles,
        PARTIAL=shared.count > 1,
        TILE=TILE,
        ROWS=config.rows,
        COLUMNS=config.columns,
        num_stages=config.stages,
        **launch_options(config.warps),
    )
    if shared.count > 1:
        sum_splits(target, packed.bias, out)
    return out


def multiply_fp8(
    codes: torch.Tensor, row_scales: torch.Tensor, packed: PackedBytes, dtype: torch.dtype
) -> torch.Tensor:
    """The same of float8_e4m3fn by `torch._scaled_mm`: cuBLAS's or CUTLASS's; K and N multiples of 16.

    bf16 results come scaled out of the product. PyTorch's versions differ in whether they scale others by
    rows, so these come in fp32, with a scale of 1, and are scaled afterwards. Where there is no GPU, products
    are of widened codes.
    """
    weight, by_row, by_column = packed.codes.t(), row_scales.unsqueeze(1), packed.scales.unsqueeze(0)
    if codes.device.type != "cuda":
        product = codes.float() @ weight.float()
    elif dtype == torch.bfloat16:
        bias = None if packed.bias is None else packed.bias.to(dtype)
        return torch._scaled_mm(codes, weight, by_row, by_column, bias=bias, out_dtype=dtype)
    else:
        one = torch.ones((), device=codes.device)
        product = torch._scaled_mm(codes, weight, one, one, out_dtype=torch.float32)
    product = product * by_row * by_column
    return (product if packed.bias is None else product + packed.bias.float()).to(dtype)
