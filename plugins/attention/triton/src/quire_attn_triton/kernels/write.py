"""`write_kernel`: rotary embedding of q and k, and K and V into the paged cache, in one launch.

Computed in fp32, rounded once. An fp8 cache holds each head of a token divided by its largest element over
448, the largest number of e4m3 (https://arxiv.org/abs/2209.05433), and that quotient beside it. A unit is one
head of one token; unit u is head `u % heads` of token `u // heads`.
"""

import triton
import triton.language as tl

E4M3_MAX = tl.constexpr(448.0)


@triton.jit
def _rotated(
    x, rows, live, cos_sin, position, ROTARY: tl.constexpr, INTERLEAVED: tl.constexpr, PAIRS: tl.constexpr
):
    """Both elements of each pair, rotated, `[UNITS, PAIRS]` fp32; where they lie; which are there."""
    i = tl.arange(0, PAIRS)
    if INTERLEAVED:
        first, second = 2 * i, 2 * i + 1
    else:
        first, second = i, i + ROTARY // 2
    there = live[:, None] & (i < ROTARY // 2)[None, :]
    a = tl.load(x + rows[:, None] + first[None, :], mask=there, other=0.0).to(tl.float32)
    b = tl.load(x + rows[:, None] + second[None, :], mask=there, other=0.0).to(tl.float32)
    angle = cos_sin + position[:, None] * ROTARY + i[None, :]
    cos = tl.load(angle, mask=there, other=1.0)
    sin = tl.load(angle + ROTARY // 2, mask=there, other=0.0)
    return a * cos - b * sin, b * cos + a * sin, first, second, there


@triton.jit
def _largest(x):
    """Largest magnitude of each row, `[UNITS, N] -> [UNITS]`."""
    return tl.max(tl.abs(x), 1)


@triton.jit
def _factor(largest):
    """By what a head is multiplied before it is stored in e4m3."""
    return (1.0 / tl.where(largest == 0.0, 1.0, largest / E4M3_MAX))[:, None]


@triton.jit
def _stored(x, dtype: tl.constexpr, ROUND: tl.constexpr):
    """x in the cache's dtype, to the nearest; `ROUND` where Triton's interpreter converts to e4m3.

    It rounds a fraction up without carrying into the exponent (125 becomes 64), so it is given no fraction to
    round: 3 bits are left of it, or steps of 2^-9 below 2^-6.
    """
    if ROUND:
        bits = x.to(tl.int32, bitcast=True)
        normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < 0.015625, (x + 24576.0) - 24576.0, normal)
    return x.to(dtype)


@triton.jit
def write_kernel(
    q,  # [T, Hq, HEAD], rows and heads any distance apart; so k and v
    k,
    v,
    q_out,  # [T, Hq, HEAD]
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    cos_sin,  # [P, ROTARY] fp32
    positions,  # [T] int64
    slots,  # [T] int64
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    tokens,
    q_heads,
    kv_heads,
    q_parts,  # programs that rotate q; the others write K and V
    HEAD: tl.constexpr,
    DIM: tl.constexpr,
    ROTARY: tl.constexpr,  # elements of a head that are rotated; 0 for none
    INTERLEAVED: tl.constexpr,
    PAIRS: tl.constexpr,  # room for the pairs
    REST: tl.constexpr,  # room for the elements that are not rotated
    UNITS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUANTIZED: tl.constexpr,
    ROUND: tl.constexpr,  # see `_stored`
):
    """Program p takes units `[p * UNITS, (p + 1) * UNITS)` of q, or of K and V from program `q_parts` on."""
    part = tl.program_id(0)
    lane = tl.arange(0, UNITS)
    rest = ROTARY + tl.arange(0, REST)
    if part < q_parts:
        if ROTARY > 0:
            unit = part * UNITS + lane
            token = (unit // q_heads).to(tl.int64)
            live = token < tokens
            rows = token * q_stride + unit % q_heads * q_head_stride
            to = unit.to(tl.int64) * HEAD
            position = tl.load(positions + token, mask=live, other=0)
            a, b, first, second, there = _rotated(
                q, rows, live, cos_sin, position, ROTARY, INTERLEAVED, PAIRS
            )
            tl.store(q_out + to[:, None] + first[None, :], a.to(q_out.dtype.element_ty), mask=there)
            tl.store(q_out + to[:, None] + second[None, :], b.to(q_out.dtype.element_ty), mask=there)
            if ROTARY < HEAD:
                kept = live[:, None] & (rest < HEAD)[None, :]
                x = tl.load(q + rows[:, None] + rest[None, :], mask=kept, other=0.0)
                tl.store(q_out + to[:, None] + rest[None, :], x, mask=kept)
        return

    unit = (part - q_parts) * UNITS + lane
    token = (unit // kv_heads).to(tl.int64)
    head = unit % kv_heads
    slot = tl.load(slots + token, mask=token < tokens, other=-1)
    live = slot >= 0
    position = tl.load(positions + token, mask=live, other=0)
    cache_row = (slot // BLOCK_SIZE * kv_heads + head) * BLOCK_SIZE + slot % BLOCK_SIZE  # [UNITS] int64
    to = cache_row * HEAD
    stored = k_cache.dtype.element_ty
    rows = token * k_stride + head * k_head_stride
    if ROTARY > 0:
        a, b, first, second, there = _rotated(k, rows, live, cos_sin, position, ROTARY, INTERLEAVED, PAIRS)
    if ROTARY < HEAD:
        kept = live[:, None] & (rest < HEAD)[None, :]
        x = tl.load(k + rows[:, None] + rest[None, :], mask=kept, other=0.0).to(tl.float32)
    if QUANTIZED:
        largest = tl.full([UNITS], 0.0, tl.float32)
        if ROTARY > 0:
            largest = tl.maximum(_largest(a), _largest(b))
        if ROTARY < HEAD:
            largest = tl.maximum(largest, _largest(x))
        tl.store(k_scale + cache_row, largest / E4M3_MAX, mask=live)
        if ROTARY > 0:
            a *= _factor(largest)
            b *= _factor(largest)
        if ROTARY < HEAD:
            x *= _factor(largest)
    if ROTARY > 0:
        tl.store(k_cache + to[:, None] + first[None, :], _stored(a, stored, ROUND), mask=there)
        tl.store(k_cache + to[:, None] + second[None, :], _stored(b, stored, ROUND), mask=there)
    if ROTARY < HEAD:
        tl.store(k_cache + to[:, None] + rest[None, :], _stored(x, stored, ROUND), mask=kept)

    d = tl.arange(0, DIM)
    whole = live[:, None] & (d < HEAD)[None, :]
    rows = token * v_stride + head * v_head_stride
    y = tl.load(v + rows[:, None] + d[None, :], mask=whole, other=0.0).to(tl.float32)
    if QUANTIZED:
        largest = _largest(y)
        tl.store(v_scale + cache_row, largest / E4M3_MAX, mask=live)
        y *= _factor(largest)
    tl.store(v_cache + to[:, None] + d[None, :], _stored(y, stored, ROUND), mask=whole)
