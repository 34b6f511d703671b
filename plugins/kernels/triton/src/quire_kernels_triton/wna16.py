"""Products with `PackedWords`: codes are unpacked in registers on their way to the matrix units."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.product_tables import ProductConfig
from quire_kernels_triton.rows import launch_options
from quire_kernels_triton.splits import split, sum_splits
from quire_kernels_triton.words import NIBBLE, SLICE, PackedWords

DEQUANTIZE_COLUMNS, DEQUANTIZE_WARPS = 64, 4


@triton.jit
def raised(code, POWER: tl.constexpr, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """POWER + code in 16 bits, by writing the code into the low bits of 1024 in fp16 or 128 in bf16."""
    SAME: tl.constexpr = 0x6400 if POWER == 1024 else 0x4300
    return (code | SAME).to(tl.int16).to(DTYPE, bitcast=True)


@triton.jit
def centred(word, SHIFT: tl.constexpr, BITS: tl.constexpr, POWER: tl.constexpr, DTYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """`code - centre` of the codes at one place of words, exact in DTYPE.

    With a POWER that is a shift, a mask and one subtraction of two numbers at a time. It is 0 where codes are
    converted: bytes in bf16, and fp32.
    """
    CENTRE: tl.constexpr = 1 << (BITS - 1)
    code = (word >> SHIFT) & ((1 << BITS) - 1)
    if POWER != 0:
        value = raised(code, POWER, DTYPE) - tl.full([1, 1], POWER + CENTRE, DTYPE)
    else:
        value = (code - CENTRE).to(tl.float32).to(DTYPE)
    return value


@triton.jit
def group_of(tile, place, PLACES: tl.constexpr, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row of scales of a tile's slice; GROUP slices share one, all if it is 0."""
    if GROUP == 0:
        return tile * 0
    return (tile * PLACES + place) // GROUP


@triton.jit
def wna16_kernel(  # type: ignore[no-untyped-def]
    x,
    words,
    scales,
    zeros,
    columns,
    bias,
    out,
    rows,
    inputs,
    outputs,
    stride,
    tiles,
    split_tiles,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    PARTIAL: tl.constexpr,
    POWER: tl.constexpr,
    DTYPE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    PLACES: tl.constexpr = 32 // BITS
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(2)
    of_slice = tl.arange(0, 16)
    is_row, is_column = (row < rows)[:, None], (column < outputs)[None, :]
    x += row.to(tl.int64)[:, None] * stride
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    start, end = part * split_tiles, tl.minimum((part + 1) * split_tiles, tiles)
    # What is multiplied is exact: scales and zero points are for whole groups of products. Triton does not
    # load ahead what comes after products: where a tile has one row of them, the next is loaded with it.
    at = group_of(start, 0, PLACES, GROUP) * outputs + column[None, :]
    ahead = tl.load(scales + at, mask=is_column, other=0.0)
    zero_ahead = ahead
    if zeros is not None:
        zero_ahead = tl.load(zeros + at, mask=is_column, other=0)
    for tile in range(start, end):
        place = (tile * 16 + of_slice)[:, None] * outputs + column[None, :]
        word = tl.load(words + place, mask=is_column, other=0)  # [16, COLUMNS]
        for first in tl.static_range(0, PLACES, SPAN):
            if SPAN == PLACES:
                scale, zero = ahead, zero_ahead
                at = group_of(tl.minimum(tile + 1, tiles - 1), 0, PLACES, GROUP) * outputs + column[None, :]
                ahead = tl.load(scales + at, mask=is_column, other=0.0)
                if zeros is not None:
                    zero_ahead = tl.load(zeros + at, mask=is_column, other=0)
            else:
                at = group_of(tile, first, PLACES, GROUP) * outputs + column[None, :]
                scale = tl.load(scales + at, mask=is_column, other=0.0)
                zero = scale
                if zeros is not None:
                    zero = tl.load(zeros + at, mask=is_column, other=0)
            met = tl.zeros([ROWS, COLUMNS], tl.float32)
            sums = tl.zeros([ROWS, COLUMNS], tl.float32)
            for one in tl.static_range(first, first + SPAN):
                k = (tile * PLACES + one) * 16 + of_slice
                if columns is not None:
                    k = tl.load(columns + k)
                    known = is_row & (k >= 0)[None, :]
                else:
                    known = is_row & (k < inputs)[None, :]
                some = tl.load(x + k[None, :], mask=known, other=0.0).to(DTYPE)  # [ROWS, 16]
                weight = centred(word, one * BITS, BITS, POWER, DTYPE)
                met = tl.dot(some, weight, met, input_precision="ieee")
                if zeros is not None:
                    sums = tl.dot(some, tl.full([16, COLUMNS], 1.0, DTYPE), sums, input_precision="ieee")
            if zeros is not None:
                met -= sums * zero.to(tl.float32)
            total += met * scale.to(tl.float32)
    inside = is_row & is_column
    if PARTIAL:
        own = out + part.to(tl.int64) * rows * outputs
        tl.store(own + row.to(tl.int64)[:, None] * outputs + column[None, :], total, mask=inside)
    else:
        if bias is not None:
            total += tl.load(bias + column, mask=column < outputs, other=0.0).to(tl.float32)[None, :]
        place = row.to(tl.int64)[:, None] * outputs + column[None, :]
        tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def dequantize_kernel(  # type: ignore[no-untyped-def]
    words,
    scales,
    zeros,
    columns,
    out,
    inputs,
    outputs,
    start,
    width,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    PLACES: tl.constexpr = 32 // BITS
    tile = tl.program_id(0)
    own = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # of the panel
    of_slice = tl.arange(0, 16)
    is_column = (own < width)[None, :]
    column = start + own
    word = tl.load(
        words + (tile * 16 + of_slice)[:, None] * outputs + column[None, :], mask=is_column, other=0
    )
    for first in tl.static_range(0, PLACES, SPAN):
        at = group_of(tile, first, PLACES, GROUP) * outputs + column[None, :]
        scale = tl.load(scales + at, mask=is_column, other=0.0).to(tl.float32)
        zero = tl.zeros([1, COLUMNS], tl.float32)
        if zeros is not None:
            zero = tl.load(zeros + at, mask=is_column, other=0).to(tl.float32)
        for one in tl.static_range(first, first + SPAN):
            k = (tile * PLACES + one) * 16 + of_slice
            if columns is not None:
                k = tl.load(columns + k)
            known = ((k >= 0) & (k < inputs))[:, None] & is_column
            weight = (centred(word, one * BITS, BITS, 0, tl.float32) - zero) * scale
            tl.store(out + k[:, None] * width + own[None, :], weight.to(out.dtype.element_ty), mask=known)


def multiply(
    x: torch.Tensor, packed: PackedWords, config: ProductConfig, multiprocessors: int, upcast: bool
) -> torch.Tensor:
    """`[M, K] -> [M, N]`, bias included, in x's dtype; x's rows contiguous, M and N 1 or more.

    Args:
        x: fp32, fp16 or bf16.
        packed: the weight.
        config: how it is launched.
        multiprocessors: of the device, which splits fill.
        upcast: multiply in fp32: for the interpreter, whose products of bf16 are wrong.
    """
    rows, outputs = x.shape[0], packed.outputs
    grid = (triton.cdiv(outputs, config.columns), triton.cdiv(rows, config.rows))
    shared = split(packed.tiles, grid[0] * grid[1], multiprocessors * config.waves, config.fewest)
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    target = out
    if shared.count > 1:
        target = torch.empty(shared.count, rows, outputs, dtype=torch.float32, device=x.device)
    kernel: Any = wna16_kernel
    kernel[(*grid, shared.count)](
        x,
        packed.words,
        packed.scales,
        packed.zeros,
        packed.columns,
        None if shared.count > 1 else packed.bias,
        target,
        rows,
        packed.inputs,
        outputs,
        x.stride(0),
        packed.tiles,
        shared.tiles,
        BITS=packed.bits,
        GROUP=_group(packed),
        SPAN=_span(packed),
        PARTIAL=shared.count > 1,
        POWER=0 if upcast else _power(x.dtype, packed.bits),
        DTYPE=tl.float32 if upcast else _TYPES[x.dtype],
        ROWS=config.rows,
        COLUMNS=config.columns,
        num_stages=config.stages,
        **launch_options(config.warps),
    )
    if shared.count > 1:
        sum_splits(target, packed.bias, out)
    return out


def multiply_dequantized(x: torch.Tensor, packed: PackedWords, scratch: torch.Tensor) -> torch.Tensor:
    """The same by dequantizing panels of columns into `scratch`, one after the other, for PyTorch's product.

    Args:
        x: `[M, K]`.
        packed: the weight.
        scratch: `[K * panel]` of x's dtype for any width of panel.
    """
    out = torch.empty(x.shape[0], packed.outputs, dtype=x.dtype, device=x.device)
    panel = scratch.numel() // packed.inputs
    bias = None if packed.bias is None else packed.bias.to(x.dtype)
    kernel: Any = dequantize_kernel
    for start in range(0, packed.outputs, panel):
        width = min(panel, packed.outputs - start)
        weight = scratch[: packed.inputs * width].view(packed.inputs, width)
        kernel[(packed.tiles, triton.cdiv(width, DEQUANTIZE_COLUMNS))](
            packed.words,
            packed.scales,
            packed.zeros,
            packed.columns,
            weight,
            packed.inputs,
            packed.outputs,
            start,
            width,
            BITS=packed.bits,
            GROUP=_group(packed),
            SPAN=_span(packed),
            COLUMNS=DEQUANTIZE_COLUMNS,
            **launch_options(DEQUANTIZE_WARPS),
        )
        target = out[:, start : start + width]
        if bias is None:
            torch.mm(x, weight, out=target)
        else:
            torch.addmm(bias[start : start + width], x, weight, out=target)
    return out


_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def takes(x: torch.Tensor) -> bool:
    """Whether the kernels multiply such activations."""
    return x.dtype in _TYPES


def _power(dtype: torch.dtype, bits: int) -> int:
    """What codes are written into to become floats; 0 where there is not room enough for them."""
    if dtype == torch.float16:
        return 1024
    return 128 if dtype == torch.bfloat16 and bits == NIBBLE else 0


def _span(packed: PackedWords) -> int:
    """Slices of a tile that share scales."""
    return min(packed.group // SLICE, 32 // packed.bits)


def _group(packed: PackedWords) -> int:
    """Slices of a group; 0 if there is one group alone, whose size then makes no kernel of its own."""
    return 0 if packed.scales.shape[0] == 1 else packed.group // SLICE
