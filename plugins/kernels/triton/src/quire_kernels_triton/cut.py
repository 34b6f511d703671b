"""Where rows end under top-k and top-p, found without sorting: a search over the order of floats.

Tokens rank by logit, then by id. A cut is the key of the last logit kept (`order.order_key`) and how many of
the tokens equal to it are kept, the lowest ids first. Both searches ask for the token at which a running sum
over the ranks reaches a target: of ones for top-k, of masses for top-p. A first pass over the row sums by
distance from the peak, in eight buckets; four more narrow one of them down to a single float, 256 to 1, and
only the few logits in it add to a sum in memory. Every pass shares a row out among programs. Nothing
here looks at a result on the host.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.order import chunk_of, mass, mass_scale, order_key, shaped
from quire_kernels_triton.rows import launch_options
from quire_kernels_triton.shape import RowShapes, place_of, shape_of

FIRST, BUCKETS, PASSES = 8, 256, 4


@triton.jit
def edge_key(peak, bucket):  # type: ignore[no-untyped-def]
    """Key of the first pass's edge above a bucket: 0, 1, 3, 6, 10, 15, 21, 28 below the peak."""
    return order_key(peak - 0.5 * (bucket * (bucket + 1)).to(tl.float32)).to(tl.int64)


@triton.jit
def shift_of(width):  # type: ignore[no-untyped-def]
    """By how many bits an interval of keys is divided into at most 256."""
    return tl.sum((width > (tl.full([32], 256, tl.int64) << tl.arange(0, 32))).to(tl.int32), axis=0)


@triton.jit
def first_sums_kernel(  # type: ignore[no-untyped-def]
    logits,
    stride,
    vocab,
    scale,
    peaks,
    slots,
    temperature,
    margin,
    sums,
    FIRST: tl.constexpr,
    BUCKETS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Tokens and masses by distance from the peak: `sums[row, 0 or 1, bucket]`."""
    row = tl.program_id(0).to(tl.int64)
    place = place_of(row, slots)
    if place >= 0:
        peak, by, least = shape_of(place, peaks, row, temperature, margin)
        column = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
        x = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf"))
        x = shaped(x.to(tl.float32), peak, by, least, temperature is not None)
        key = order_key(x).to(tl.int64)
        bucket = tl.zeros([CHUNK], tl.int32)
        for i in tl.static_range(1, FIRST):
            bucket += (key < edge_key(peak, tl.full([1], i, tl.int32))).to(tl.int32)
        each = tl.arange(0, FIRST)
        here = (bucket[None, :] == each[:, None]) & (column < vocab)[None, :]
        counts = tl.sum(here.to(tl.int32), axis=1)
        masses = tl.sum(tl.where(here, mass(x, peak, scale)[None, :], 0), axis=1)
        start = sums + row * 2 * BUCKETS
        tl.atomic_add(start + each, counts.to(tl.int64), mask=counts > 0, sem="relaxed")
        tl.atomic_add(start + BUCKETS + each, masses, mask=masses > 0, sem="relaxed")


@triton.jit
def select(  # type: ignore[no-untyped-def]
    sums, row, peak, target, state, FIRST: tl.constexpr, BUCKETS: tl.constexpr, BY_MASS: tl.constexpr
):
    """The bucket in which a running sum reaches its target.

    `state` is the interval that `sums` divide; None for the first pass's.

    Returns:
        the bucket's lowest key and width; tokens and mass above it; tokens and mass in it.
    """
    each = tl.arange(0, BUCKETS)
    counts = tl.load(sums + row * 2 * BUCKETS + each)
    masses = tl.load(sums + (row * 2 + 1) * BUCKETS + each)
    if state is None:
        above_count = tl.zeros([1], tl.int64)
        above_mass = tl.zeros([1], tl.int64)
        last = FIRST - 1
    else:
        one = tl.arange(0, 1)
        above_count = tl.load(state + row * 4 + 2 + one)
        above_mass = tl.load(state + row * 4 + 3 + one)
        last = BUCKETS - 1
    ends = tl.cumsum(masses, axis=0) + above_mass if BY_MASS else tl.cumsum(counts, axis=0) + above_count
    bucket = tl.minimum(tl.sum((ends < target).to(tl.int32), axis=0, keep_dims=True), last)  # [1]
    above_count += tl.sum(tl.where(each < bucket, counts, 0), axis=0, keep_dims=True)
    above_mass += tl.sum(tl.where(each < bucket, masses, 0), axis=0, keep_dims=True)
    count = tl.sum(tl.where(each == bucket, counts, 0), axis=0, keep_dims=True)
    within = tl.sum(tl.where(each == bucket, masses, 0), axis=0, keep_dims=True)
    if state is None:
        top = tl.where(bucket == 0, 0x80000000, edge_key(peak, bucket))
        low = tl.where(bucket == last, -0x80000000, edge_key(peak, bucket + 1))
    else:
        start, width = tl.load(state + row * 4 + one), tl.load(state + row * 4 + 1 + one)
        shift = shift_of(width)
        wide = bucket.to(tl.int64)
        top = start + width - (wide << shift)
        low = start + tl.maximum(width - ((wide + 1) << shift), 0)
    return low, top - low, above_count, above_mass, count, within


@triton.jit
def narrow_kernel(  # type: ignore[no-untyped-def]
    logits,
    stride,
    vocab,
    scale,
    peaks,
    slots,
    temperature,
    margin,
    top_k,
    top_p,
    targets,
    sums,
    state,
    next_sums,
    next_state,
    FIRST: tl.constexpr,
    BUCKETS: tl.constexpr,
    CHUNK: tl.constexpr,
    BY_MASS: tl.constexpr,
):
    """Select a bucket of the last pass's sums, and sum up what is in it by 256 smaller ones."""
    row = tl.program_id(0).to(tl.int64)
    place = place_of(row, slots)
    if place >= 0:
        if BY_MASS:
            wanted = tl.load(top_p + place) < 1.0
            target = tl.load(targets + row)
        else:
            target = tl.load(top_k + place)
            wanted = target < vocab
        if wanted:
            peak, by, least = shape_of(place, peaks, row, temperature, margin)
            low, width, above_count, above_mass, _count, _within = select(
                sums, row, peak, target, state, FIRST, BUCKETS, BY_MASS
            )
            if tl.program_id(1) == 0:
                one = next_state + row * 4 + tl.arange(0, 1)
                tl.store(one, low)
                tl.store(one + 1, width)
                tl.store(one + 2, above_count)
                tl.store(one + 3, above_mass)
            column = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
            x = tl.load(logits + row * stride + column, mask=column < vocab, other=float("-inf"))
            x = shaped(x.to(tl.float32), peak, by, least, temperature is not None)
            rank = low + width - 1 - order_key(x).to(tl.int64)
            here = (rank >= 0) & (rank < width) & (column < vocab)
            bucket = next_sums + row * 2 * BUCKETS + (rank >> shift_of(width))
            tl.atomic_add(bucket, tl.full([CHUNK], 1, tl.int64), mask=here, sem="relaxed")
            weight = mass(x, peak, scale)
            tl.atomic_add(bucket + BUCKETS, weight, mask=here & (weight > 0), sem="relaxed")


@triton.jit
def settle_kernel(  # type: ignore[no-untyped-def]
    vocab,
    peaks,
    slots,
    temperature,
    margin,
    top_k,
    top_p,
    targets,
    first_sums,
    sums,
    state,
    keys,
    kept,
    FIRST: tl.constexpr,
    BUCKETS: tl.constexpr,
    BY_MASS: tl.constexpr,
):
    """Write a row's cut; after top-k, the mass that top-p has to reach as well."""
    row = tl.program_id(0).to(tl.int64)
    place = place_of(row, slots)
    if place >= 0:
        one = row + tl.arange(0, 1)
        peak, _by, _least = shape_of(place, peaks, row, temperature, margin)
        if BY_MASS:
            if tl.load(top_p + place) < 1.0:
                target = tl.load(targets + row)
                low, _width, _above, above, count, within = select(
                    sums, row, peak, target, state, FIRST, BUCKETS, BY_MASS
                )
                each = tl.maximum(within // tl.maximum(count, 1), 1)  # equals have equal masses
                tl.store(keys + one, low)
                tl.store(kept + one, (target - above + each - 1) // each)
        else:
            masses = tl.load(first_sums + (row * 2 + 1) * BUCKETS + tl.arange(0, FIRST))
            low = tl.full([1], -0x80000000, tl.int64)
            keep = tl.zeros([1], tl.int64)
            total = tl.sum(masses, axis=0, keep_dims=True)
            if top_k is not None:
                target = tl.load(top_k + place)
                if target < vocab:
                    low, _width, above_count, above, count, within = select(
                        sums, row, peak, target, state, FIRST, BUCKETS, BY_MASS
                    )
                    keep = target - above_count
                    total = above + keep * (within // tl.maximum(count, 1))
            tl.store(keys + one, low)
            tl.store(kept + one, keep)
            if top_p is not None:
                share = tl.load(top_p + place) * total.to(tl.float64)
                wanted = share.to(tl.int64)
                wanted += (wanted.to(tl.float64) < share).to(tl.int64)
                tl.store(targets + one, tl.maximum(tl.minimum(wanted, total), 1))


def cuts(logits: torch.Tensor, peaks: torch.Tensor, shapes: RowShapes) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys `[R]` and numbers of equals kept `[R]`, int64; the key of a row that ends nowhere is below all.

    Args:
        logits: `[R, V]`.
        peaks: `[R]`, the greatest of each row.
        shapes: with a top-k or a top-p, or both.
    """
    rows, vocab = logits.shape
    chunk = chunk_of(vocab)
    device = logits.device
    both = (shapes.top_k is not None) + (shapes.top_p is not None)
    # One allocation, one memset: sums of every pass, then what passes tell each other.
    sums = torch.zeros((1 + both * PASSES, rows, 2, BUCKETS), dtype=torch.int64, device=device)
    states = torch.empty((both * PASSES, rows, 4), dtype=torch.int64, device=device)
    targets, keys, kept = torch.empty((3, rows), dtype=torch.int64, device=device).unbind(0)
    grid = (rows, triton.cdiv(vocab, chunk))
    row = (peaks, shapes.slots, shapes.temperature, shapes.margin)
    read = (logits, logits.stride(0), vocab, mass_scale(vocab), *row)
    first: Any = first_sums_kernel
    narrow: Any = narrow_kernel
    settle: Any = settle_kernel
    sizes = {"FIRST": FIRST, "BUCKETS": BUCKETS, **launch_options(8)}
    first[grid](*read, sums[0], CHUNK=chunk, **sizes)
    ends = (shapes.top_k, shapes.top_p, targets)
    last, state, made = sums[0], None, 0
    by_count, by_share = (shapes.top_k, None, None), (None, shapes.top_p, targets)
    for by_mass, wanted in ((False, shapes.top_k), (True, shapes.top_p)):
        asked = by_share if by_mass else by_count
        last, state = sums[0], None
        for _ in range(PASSES if wanted is not None else 0):
            following = (sums[made + 1], states[made])
            narrow[grid](
                *read,
                *asked,
                last,
                state,
                *following,
                **sizes,
                CHUNK=chunk,
                BY_MASS=by_mass,
            )
            last, state = following
            made += 1
        if wanted is not None or not by_mass:
            settle[(rows,)](
                vocab,
                *row,
                *ends,
                sums[0],
                last,
                state,
                keys,
                kept,
                **sizes,
                BY_MASS=by_mass,
            )
    return keys, kept
