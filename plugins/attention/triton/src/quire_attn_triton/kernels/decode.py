"""`decode_kernel` and `reduce_kernel`: requests of few rows, their keys split over programs.

The query heads that share a KV head lie beside each other as rows of one product, so that K and V are read
once for all of them (https://arxiv.org/abs/2305.13245 has the grouping, https://arxiv.org/abs/2311.01282 the
splitting). Row m of a block is query row `m // RATIO` of the request and query head `m % RATIO` of the group.
"""

import triton
import triton.language as tl

from quire_attn_triton.kernels.plan import visible_from
from quire_attn_triton.kernels.tile import attend_tile, normalised


@triton.jit
def decode_kernel(
    q,  # [T, Hq, HEAD], rows and heads any distance apart
    out,  # [T, Hq, HEAD]
    partial_sums,  # [places, Hkv, lanes, DIM] fp32
    partial_stats,  # [places, Hkv, lanes, 2] fp32: weight, top
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    items,
    splits,
    chunk_in,
    query_start,
    seq_lens,
    block_table,  # [S, B] int32
    table_stride,
    q_stride,
    q_head_stride,
    kv_heads,
    lanes,  # rows of a block that a request can have at most
    scale,
    soft_cap,
    window,
    RATIO: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HEAD: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    QUANTIZED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (item, KV head): one split of one request, straight to `out` if it is the only one."""
    item = tl.program_id(0)
    head = tl.program_id(1)
    request = tl.load(items + 2 * item)
    if request < 0:
        return
    split = tl.load(items + 2 * item + 1)
    count = tl.load(splits + 2 * request)
    place = tl.load(splits + 2 * request + 1) + split
    chunk = tl.load(chunk_in)
    seq_len = tl.load(seq_lens + request)
    query_first = tl.load(query_start + request)
    query_len = tl.load(query_start + request + 1) - query_first

    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, DIM)
    live = m < query_len * RATIO
    query = (query_first + m // RATIO).to(tl.int64)
    query_head = head * RATIO + m % RATIO
    stored = live[:, None] & (d < HEAD)[None, :]
    q_rows = query * q_stride + query_head * q_head_stride
    rows = tl.load(q + q_rows[:, None] + d[None, :], mask=stored, other=0.0)
    positions = tl.where(live, seq_len - query_len + m // RATIO, -1)

    lowest = visible_from(seq_len, query_len, window, TILE, HAS_WINDOW)
    start = lowest + split * chunk
    end = tl.minimum(start + chunk, seq_len)
    table = block_table + request.to(tl.int64) * table_stride
    sums = tl.full([BLOCK_M, DIM], 0.0, tl.float32)
    weight = tl.full([BLOCK_M], 0.0, tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for key in range(start, end, TILE):
        sums, weight, top = attend_tile(
            (sums, weight, top), rows, positions, key, end, k_cache, v_cache, k_scale, v_scale, table, head,
            kv_heads, scale, soft_cap, window, True, HEAD, DIM, BLOCK_SIZE, TILE, HAS_CAP, HAS_WINDOW,
            QUANTIZED, UPCAST,
        )  # fmt: skip

    if count == 1:
        out_rows = (query * kv_heads * RATIO + query_head) * HEAD
        result = normalised(sums, weight).to(out.dtype.element_ty)
        tl.store(out + out_rows[:, None] + d[None, :], result, mask=stored)
    else:
        partial = (place.to(tl.int64) * kv_heads + head) * lanes + m
        tl.store(partial_sums + partial[:, None] * DIM + d[None, :], sums, mask=live[:, None])
        tl.store(partial_stats + partial * 2, weight, mask=live)
        tl.store(partial_stats + partial * 2 + 1, top, mask=live)


@triton.jit
def reduce_kernel(
    out,  # [T, Hq, HEAD]
    partial_sums,
    partial_stats,
    splits,
    query_start,
    kv_heads,
    lanes,
    RATIO: tl.constexpr,
    HEAD: tl.constexpr,
    DIM: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Program (request, KV head * lanes + row): the row's partial results into one, if it has several."""
    request = tl.program_id(0)
    head = tl.program_id(1) // lanes
    m = tl.program_id(1) % lanes
    count = tl.load(splits + 2 * request)
    if count < 2:
        return
    query_first = tl.load(query_start + request)
    if m >= (tl.load(query_start + request + 1) - query_first) * RATIO:
        return
    place = tl.load(splits + 2 * request + 1).to(tl.int64)
    lane = tl.arange(0, SPAN)
    d = tl.arange(0, DIM)
    sums = tl.full([DIM], 0.0, tl.float32)
    weight = tl.full([SPAN], 0.0, tl.float32)
    top = tl.full([SPAN], float("-inf"), tl.float32)  # the same in all lanes
    for start in range(0, count, SPAN):
        live = start + lane < count
        partial = ((place + start + lane) * kv_heads + head) * lanes + m
        part_weight = tl.load(partial_stats + partial * 2, mask=live, other=0.0)
        part_top = tl.load(partial_stats + partial * 2 + 1, mask=live, other=float("-inf"))
        part = tl.load(partial_sums + partial[:, None] * DIM + d[None, :], mask=live[:, None], other=0.0)
        new_top = tl.maximum(top, tl.max(part_top, 0))
        # A split in which a row sees nothing is at -inf, and so are all so far, perhaps.
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        factor = tl.exp2(part_top - base)
        shrink = tl.exp2(top - base)
        weight = weight * shrink + part_weight * factor
        sums = sums * tl.max(shrink, 0) + tl.sum(part * factor[:, None], 0)
        top = new_top
    total = tl.sum(weight, 0)
    result = sums / tl.where(total == 0.0, 1.0, total)
    row = (query_first + m // RATIO).to(tl.int64) * kv_heads * RATIO + head * RATIO + m % RATIO
    tl.store(out + row * HEAD + d, result.to(out.dtype.element_ty), mask=d < HEAD)
