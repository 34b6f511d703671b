"""One tile of keys met by a block of query rows: the step that decode and prefill share.

Online softmax as in FlashAttention (Dao et al., https://arxiv.org/abs/2205.14135), in powers of two. Knows
where a key lies in the paged cache; never which request or which split it works for.

A cache tensor is taken as rows: token `slot` of KV head `head` in block `block` is row
`(block * kv_heads + head) * BLOCK_SIZE + slot`, counted in 64 bits, for a large cache has more elements than
32 bits count. K and V of a row are `HEAD` elements, a scale is one.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def attend_tile(
    state,  # (sums [M, DIM], weight [M], top [M]), all fp32
    q,  # [M, DIM], compute dtype
    positions,  # [M]; -1 for rows that are nobody's
    start,  # first key of the tile
    end,  # one past the last key to be read
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    table,  # the request's row of the block table
    head,
    kv_heads,
    scale,
    soft_cap,
    window,
    MASKED: tl.constexpr,  # some row may not see some key of the tile
    HEAD: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    QUANTIZED: tl.constexpr,
    UPCAST: tl.constexpr,  # Triton's interpreter gets products of bf16 wrong
):
    """The state with keys [start, start + TILE) attended to.

    Without a soft cap `scale` comes multiplied by log2(e).
    """
    sums, weight, top = state
    keys = start + tl.arange(0, TILE)
    d = tl.arange(0, DIM)
    # Constants where nothing is masked: the compiler then drops the mask.
    inside = (keys < end) if MASKED else tl.full([TILE], True, tl.int1)
    block = tl.load(table + keys // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
    row = (block * kv_heads + head) * BLOCK_SIZE + keys % BLOCK_SIZE  # [TILE]
    offsets = row[:, None] * HEAD + d[None, :]
    readable = inside[:, None]
    if HEAD < DIM:
        readable = readable & (d < HEAD)[None, :]

    k = tl.load(k_cache + offsets, mask=readable, other=0.0).to(q.dtype)
    if UPCAST:
        q, k = q.to(tl.float32), k.to(tl.float32)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if QUANTIZED:
        scores *= tl.load(k_scale + row, mask=inside, other=0.0)[None, :]
    if HAS_CAP:
        # tanh(x) = 1 - 2 / (exp(2x) + 1), which is right at both infinities.
        doubled = scores * ((1.0 / soft_cap) * (2.0 * LOG2E))
        scores = soft_cap * (1.0 - 2.0 / (tl.exp2(doubled) + 1.0)) * LOG2E
    if MASKED:
        seen = (keys[None, :] <= positions[:, None]) & inside[None, :]
        if HAS_WINDOW:
            seen = seen & (keys[None, :] > positions[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))

    new_top = tl.maximum(top, tl.max(scores, 1))
    # A row that has seen no key yet is at -inf, and -inf - -inf would be NaN.
    base = tl.where(new_top == float("-inf"), 0.0, new_top) if MASKED else new_top
    p = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(top - base)
    weight = weight * shrink + tl.sum(p, 1)
    if QUANTIZED:
        p *= tl.load(v_scale + row, mask=inside, other=0.0)[None, :]
    v = tl.load(v_cache + offsets, mask=readable, other=0.0).to(q.dtype)
    sums = tl.dot(p.to(v.dtype), v, sums * shrink[:, None], input_precision="ieee")
    return sums, weight, new_top


@triton.jit
def normalised(sums, weight):
    """Attention's result from its sums; 0 for rows that saw no key."""
    return sums / tl.where(weight == 0.0, 1.0, weight)[:, None]
