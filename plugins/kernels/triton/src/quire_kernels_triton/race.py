"""One token per row, the winner of the race of `quire.ops.coupling`: nothing of the logits' size is written.

The lots are the reference's, bit for bit up to their logarithm, which is good to some last digits. A token's
score is `p / lot`, with p in units of the likeliest token's of its chunk: so one launch reads the logits,
whoever is the row's likeliest, and a second one weighs the chunks' winners against each other.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.draw import chunk_sums, draw_words
from quire_kernels_triton.order import chunk_of, order_key, shaped
from quire_kernels_triton.rows import launch_options, power_of_two
from quire_kernels_triton.shape import RowShapes, place_of, shape_of


@triton.jit
def mixed(bits):  # type: ignore[no-untyped-def]
    """A bijection of 32-bit numbers in which each bit depends on all, as the reference's."""
    bits = (bits ^ (bits >> 16)) * 0x21F0AAAD
    bits = (bits ^ (bits >> 15)) * 0x735A2D97
    return bits ^ (bits >> 15)


@triton.jit
def minus_log1p(u):  # type: ignore[no-untyped-def]
    """`-log(1 - u)` of fp32 in (0, 1), to some units of the last digit wherever u lies.

    By correctly rounded operations alone, so that a lot is the same bits wherever it is computed. A GPU's
    fast logarithm is exact to so many digits after the point, and the lots that win lie behind those.
    """
    rest = (1.0 - u).to(tl.int32, bitcast=True)
    by = (rest - 0x3F3504F3) >> 23  # of 1 - u = x * 2**by, x between the square roots of 1/2 and 2
    x = (rest - (by << 23)).to(tl.float32, bitcast=True)
    small = by == 0  # then no digit of u may be lost in 1 - u
    less = tl.where(small, u, 1.0 - x)
    s = tl.div_rn(less, 2.0 - less)  # -log(1 - less) is twice the inverse hyperbolic tangent of this
    square = s * s
    series = 0.33333334 + square * (0.2 + square * (0.14285715 + square * 0.11111111))
    return 2.0 * (s + s * square * series) - by.to(tl.float32) * 0.6931472


@triton.jit
def lots_of(columns, first, second):  # type: ignore[no-untyped-def]
    """The reference's `exponentials` of a key's two words, uint32 each."""
    bits = mixed(mixed(columns.to(tl.uint32) * 0x9E3779B1 + first) ^ second)
    u = (bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10
    return minus_log1p(tl.minimum(u, 0.99999994))


@triton.jit
def race_kernel(  # type: ignore[no-untyped-def]
    logits,
    stride,
    vocab,
    peaks,
    slots,
    temperature,
    margin,
    greedy,
    cut_keys,
    kept,
    equals,
    chunks,
    keys,
    seeds,
    positions,
    tops,
    ranks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Per chunk its winner, ranked by score first and by id, the lowest best, second; and its top logit."""
    row = tl.program_id(0).to(tl.int64)
    place = place_of(row, slots)
    racing = place >= 0
    if greedy is not None:
        racing = racing & (tl.load(greedy + place, mask=racing, other=1) == 0)
    if racing:
        chunk = tl.program_id(1)
        column = chunk * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf")).to(tl.float32)
        if temperature is not None:
            peak, by, least = shape_of(place, peaks, row, temperature, margin)
            x = shaped(x, peak, by, least, True)
        if cut_keys is not None:
            key, last = order_key(x).to(tl.int64), tl.load(cut_keys + row)
            each = tl.arange(0, CHUNKS)
            before = tl.sum(tl.load(equals + row * chunks + each, mask=each < chunk, other=0), axis=0)
            same = ((key == last) & (column < vocab)).to(tl.int32)
            rank = before + tl.cumsum(same, axis=0) - same
            x = tl.where((key > last) | ((same > 0) & (rank < tl.load(kept + row))), x, float("-inf"))
        if seeds is not None:
            first, second = draw_words(tl.load(seeds + place), tl.load(positions + row).to(tl.int64))
        else:
            first = tl.load(keys + row * 2).to(tl.uint32)
            second = tl.load(keys + row * 2 + 1).to(tl.uint32)
        x = tl.where(x == x, x, float("-inf"))  # NaN runs nowhere: its row is invalid
        top = tl.max(x, axis=0)
        weight = tl.where(x == top, 1.0, tl.exp(x - top))  # inf - inf is 0 here
        weight = tl.where(x > float("-inf"), weight, 0.0)
        score = tl.div_rn(weight, lots_of(column, first, second))
        tl.store(tops + row * chunks + chunk, top)
        tl.store(ranks + row * chunks + chunk, tl.max(ranked(score, column), axis=0))


@triton.jit
def ranked(score, column):  # type: ignore[no-untyped-def]
    """Scores of 0 and above are ordered as their bits are."""
    return (score.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (0x7FFFFFFF - column).to(tl.int64)


@triton.jit
def finish_kernel(  # type: ignore[no-untyped-def]
    tops, ranks, chunks, peaks, slots, best, greedy, ids, invalid, CHUNKS: tl.constexpr
):
    """The winner of the chunks' winners; `best` of a greedy row, 0 of a filling one."""
    row = tl.program_id(0).to(tl.int64)
    place = place_of(row, slots)
    if slots is not None:
        tl.store(ids + row, 0, mask=place < 0)
        tl.store(invalid + row, 0, mask=place < 0)
    if place >= 0:
        each = tl.arange(0, CHUNKS)
        top = tl.load(tops + row * chunks + each, mask=each < chunks, other=float("-inf"))
        rank = tl.load(ranks + row * chunks + each, mask=each < chunks, other=0)
        score = (rank >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        score *= tl.where(top == tl.max(top, axis=0), 1.0, tl.exp(top - tl.max(top, axis=0)))
        column = 0x7FFFFFFF - (rank & 0xFFFFFFFF).to(tl.int32)
        winner = 0x7FFFFFFF - (tl.max(tl.where(each < chunks, ranked(score, column), 0), axis=0) & 0xFFFFFFFF)
        if slots is not None:
            certain = tl.load(best + row)
            winner = tl.where(tl.load(greedy + place) != 0, certain, winner)
            tl.store(invalid + row, tl.where(tl.load(peaks + row).to(tl.float32) > float("-inf"), 0, 1))
        tl.store(ids + row, winner)


def race(logits: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Ids `[R]` int64 by keys `[R, 2]` int64 on the device; of rows without slots."""
    ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    _race(logits, RowShapes(), None, ids, keys=keys)
    return ids


def race_by_slot(
    logits: torch.Tensor,
    peaks: tuple[torch.Tensor, torch.Tensor],
    shapes: RowShapes,
    cut: tuple[torch.Tensor, torch.Tensor] | None,
    random: tuple[torch.Tensor, torch.Tensor],
    greedy: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `draw.draw_by_slot`, with the slots' own lots."""
    ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    invalid = torch.empty(logits.shape[0], dtype=torch.bool, device=logits.device)
    best, values = peaks
    _race(logits, shapes, cut, ids, peaks=values, best=best, greedy=greedy, random=random, invalid=invalid)
    return ids, invalid


def _race(
    logits: torch.Tensor,
    shapes: RowShapes,
    cut: tuple[torch.Tensor, torch.Tensor] | None,
    ids: torch.Tensor,
    *,
    keys: torch.Tensor | None = None,
    peaks: torch.Tensor | None = None,
    best: torch.Tensor | None = None,
    greedy: torch.Tensor | None = None,
    random: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
    invalid: torch.Tensor | None = None,
) -> None:
    rows, vocab = logits.shape
    chunk = chunk_of(vocab)
    chunks = triton.cdiv(vocab, chunk)
    cut_keys, kept, equals = None, None, None
    if cut is not None:
        assert peaks is not None, "what is cut was shaped"
        cut_keys, kept = cut
        _, equals = chunk_sums(logits, peaks, shapes, cut_keys, masses=False)
    tops = torch.empty((rows, chunks), dtype=torch.float32, device=logits.device)
    ranks = torch.empty((rows, chunks), dtype=torch.int64, device=logits.device)
    by_chunk: Any = race_kernel
    by_chunk[(rows, chunks)](
        logits,
        logits.stride(0),
        vocab,
        peaks,
        shapes.slots,
        shapes.temperature,
        shapes.margin,
        greedy,
        cut_keys,
        kept,
        equals,
        chunks,
        keys,
        *random,
        tops,
        ranks,
        CHUNK=chunk,
        CHUNKS=power_of_two(chunks),
        **launch_options(4),
    )
    by_row: Any = finish_kernel
    by_row[(rows,)](
        tops,
        ranks,
        chunks,
        peaks,
        shapes.slots,
        best,
        greedy,
        ids,
        invalid,
        CHUNKS=power_of_two(chunks),
        **launch_options(1),
    )
