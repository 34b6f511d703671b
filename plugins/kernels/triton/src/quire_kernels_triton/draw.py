"""One token per row by inverting the cumulative distribution in order of id, and rows without what is cut.

Masses are integers (`order.mass`), so a number in [0, 1) picks the same token however a row is shared out.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.order import chunk_of, mass, mass_scale, order_key, shaped, value_of
from quire_kernels_triton.rows import launch_options, power_of_two
from quire_kernels_triton.shape import RowShapes, place_of, shape_of


@triton.jit
def chunk_sums_kernel(  # type: ignore[no-untyped-def]
    logits,
    stride,
    vocab,
    scale,
    peaks,
    slots,
    temperature,
    margin,
    keys,
    above,
    equals,
    chunks,
    CHUNK: tl.constexpr,
):
    """Per chunk the mass above the cut and the number of tokens at it; without a cut, all mass."""
    row = tl.program_id(0).to(tl.int64)
    place = place_of(row, slots)
    if place >= 0:
        peak, by, least = shape_of(place, peaks, row, temperature, margin)
        chunk = tl.program_id(1)
        column = chunk * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf"))
        x = shaped(x.to(tl.float32), peak, by, least, temperature is not None)
        weight = mass(x, peak, scale)
        if keys is not None:
            key, last = order_key(x).to(tl.int64), tl.load(keys + row)
            weight = tl.where(key > last, weight, 0)
            same = tl.sum(((key == last) & (column < vocab)).to(tl.int32), axis=0)
            tl.store(equals + row * chunks + chunk, same)
        if above is not None:
            tl.store(above + row * chunks + chunk, tl.sum(weight, axis=0))


@triton.jit
def keep_kernel(  # type: ignore[no-untyped-def]
    logits, stride, vocab, keys, kept, equals, out, chunks, CHUNK: tl.constexpr, CHUNKS: tl.constexpr
):
    """-inf past the cut."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    each = tl.arange(0, CHUNKS)
    before = tl.sum(tl.load(equals + row * chunks + each, mask=each < chunk, other=0), axis=0)
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf"))
    key, last = order_key(x).to(tl.int64), tl.load(keys + row)
    same = ((key == last) & (column < vocab)).to(tl.int32)
    rank = before + tl.cumsum(same, axis=0) - same
    inside = (key > last) | ((same > 0) & (rank < tl.load(kept + row)))
    tl.store(out + row * vocab + column, tl.where(inside, x, float("-inf")), mask=column < vocab)


@triton.jit
def draw_kernel(  # type: ignore[no-untyped-def]
    logits,
    stride,
    vocab,
    scale,
    peaks,
    slots,
    temperature,
    margin,
    keys,
    kept,
    above,
    equals,
    chunks,
    best,
    greedy,
    uniforms,
    seeds,
    positions,
    ids,
    invalid,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """The chunk, then the token in it, at which the running mass exceeds a uniform share of the whole.

    A row with slots draws its own number from its seed and position, and takes `best` if greedy.
    """
    row = tl.program_id(0).to(tl.int64)
    place = place_of(row, slots)
    if slots is not None:
        tl.store(ids + row, 0, mask=place < 0)
        tl.store(invalid + row, 0, mask=place < 0)
    if place >= 0:
        peak, by, least = shape_of(place, peaks, row, temperature, margin)
        each = tl.arange(0, CHUNKS)
        masses = tl.load(above + row * chunks + each, mask=each < chunks, other=0)
        if keys is not None:
            last, keep = tl.load(keys + row), tl.load(kept + row)
            at = mass(value_of(last.to(tl.int32)), peak, scale)
            same = tl.load(equals + row * chunks + each, mask=each < chunks, other=0).to(tl.int64)
            earlier = tl.cumsum(same, axis=0) - same
            masses += tl.minimum(tl.maximum(keep - earlier, 0), same) * at
        total = tl.sum(masses, axis=0)
        if slots is not None:
            number = uniform(tl.load(seeds + place), tl.load(positions + row).to(tl.int64))
        else:
            number = tl.load(uniforms + row)
        target = tl.maximum(tl.minimum((number * total.to(tl.float64)).to(tl.int64), total - 1), 0)
        chunk = tl.minimum(tl.sum((tl.cumsum(masses, axis=0) <= target).to(tl.int32), axis=0), chunks - 1)
        target -= tl.sum(tl.where(each < chunk, masses, 0), axis=0)

        column = chunk * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf"))
        x = shaped(x.to(tl.float32), peak, by, least, temperature is not None)
        weight = mass(x, peak, scale)
        if keys is not None:
            key = order_key(x).to(tl.int64)
            equal = (key == last).to(tl.int64)
            rank = tl.sum(tl.where(each == chunk, earlier, 0), axis=0) + tl.cumsum(equal, axis=0) - equal
            weight = tl.where((key > last) | ((equal > 0) & (rank < keep)), weight, 0)
        found = chunk * CHUNK + tl.sum((tl.cumsum(weight, axis=0) <= target).to(tl.int32), axis=0)
        found = tl.minimum(found, vocab - 1).to(tl.int64)
        if slots is not None:
            certain = tl.load(best + row)
            found = tl.where(tl.load(greedy + place) != 0, certain, found)
            tl.store(invalid + row, tl.where(peak > float("-inf"), 0, 1))
        tl.store(ids + row, found)


@triton.jit
def uniform(seed, position):  # type: ignore[no-untyped-def]
    """The number in [0, 1) that `quire.ops.philox` gives for drawing a token, fp64 with 53 random bits."""
    upper, lower = draw_words(seed, position)
    bits = ((upper.to(tl.uint64) << 32) | lower.to(tl.uint64)) >> 11
    return bits.to(tl.int64).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def draw_words(seed, position):  # type: ignore[no-untyped-def]
    """The two words that `quire.ops.philox` gives for drawing a token, uint32 each."""
    low = (position & 0xFFFFFFFF).to(tl.uint32)
    high = (position >> 32).to(tl.uint32)
    zero = low * 0
    first, second, _, _ = tl.philox(seed, low, high, zero, zero)
    return first, second


def chunk_sums(
    logits: torch.Tensor,
    peaks: torch.Tensor,
    shapes: RowShapes,
    keys: torch.Tensor | None,
    *,
    masses: bool = True,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Per chunk the mass above the cut (if asked for) and the number of tokens at it, `[R, chunks]` each."""
    rows, vocab = logits.shape
    chunk = chunk_of(vocab)
    grid = (rows, triton.cdiv(vocab, chunk))
    above = torch.empty(grid, dtype=torch.int64, device=logits.device) if masses else None
    equals = None if keys is None else torch.empty(grid, dtype=torch.int32, device=logits.device)
    kernel: Any = chunk_sums_kernel
    kernel[grid](
        logits,
        logits.stride(0),
        vocab,
        mass_scale(vocab),
        peaks,
        shapes.slots,
        shapes.temperature,
        shapes.margin,
        keys,
        above,
        equals,
        grid[1],
        CHUNK=chunk,
        **launch_options(4),
    )
    return above, equals


def keep(logits: torch.Tensor, peaks: torch.Tensor, keys: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """`[R, V]` fp32 logits, -inf past each row's cut."""
    rows, vocab = logits.shape
    chunk = chunk_of(vocab)
    _, equals = chunk_sums(logits, peaks, RowShapes(), keys, masses=False)
    out = torch.empty((rows, vocab), dtype=logits.dtype, device=logits.device)
    chunks = triton.cdiv(vocab, chunk)
    kernel: Any = keep_kernel
    kernel[(rows, chunks)](
        logits,
        logits.stride(0),
        vocab,
        keys,
        kept,
        equals,
        out,
        chunks,
        CHUNK=chunk,
        CHUNKS=power_of_two(chunks),
        **launch_options(4),
    )
    return out


def draw(
    logits: torch.Tensor,
    peaks: torch.Tensor,
    shapes: RowShapes,
    cut: tuple[torch.Tensor, torch.Tensor] | None,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    """Ids `[R]` int64 at `uniforms`, `[R]` fp64 on the device; of rows without slots."""
    ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    _draw(logits, peaks, shapes, cut, ids, uniforms=uniforms)
    return ids


def draw_by_slot(
    logits: torch.Tensor,
    peaks: tuple[torch.Tensor, torch.Tensor],
    shapes: RowShapes,
    cut: tuple[torch.Tensor, torch.Tensor] | None,
    random: tuple[torch.Tensor, torch.Tensor],
    greedy: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `[R]` int64 and whether a row is invalid `[R]` bool; of rows with slots.

    Args:
        logits: `[R, V]`.
        peaks: ids and values of each row's greatest.
        shapes, cut: as for `draw`.
        random: `(seeds [S], positions [R])`.
        greedy: `[S]` bool.
    """
    ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    invalid = torch.empty(logits.shape[0], dtype=torch.bool, device=logits.device)
    best, values = peaks
    _draw(logits, values, shapes, cut, ids, best=best, greedy=greedy, random=random, invalid=invalid)
    return ids, invalid


def _draw(
    logits: torch.Tensor,
    peaks: torch.Tensor,
    shapes: RowShapes,
    cut: tuple[torch.Tensor, torch.Tensor] | None,
    ids: torch.Tensor,
    *,
    best: torch.Tensor | None = None,
    greedy: torch.Tensor | None = None,
    uniforms: torch.Tensor | None = None,
    random: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
    invalid: torch.Tensor | None = None,
) -> None:
    rows, vocab = logits.shape
    chunk = chunk_of(vocab)
    keys, kept = (None, None) if cut is None else cut
    above, equals = chunk_sums(logits, peaks, shapes, keys)
    chunks = triton.cdiv(vocab, chunk)
    kernel: Any = draw_kernel
    kernel[(rows,)](
        logits,
        logits.stride(0),
        vocab,
        mass_scale(vocab),
        peaks,
        shapes.slots,
        shapes.temperature,
        shapes.margin,
        keys,
        kept,
        above,
        equals,
        chunks,
        best,
        greedy,
        uniforms,
        *random,
        ids,
        invalid,
        CHUNK=chunk,
        CHUNKS=power_of_two(chunks),
        **launch_options(8),
    )
