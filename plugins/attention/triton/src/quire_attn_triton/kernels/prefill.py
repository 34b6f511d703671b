"""`prefill_kernel`: requests of many rows, each tile of rows against all keys it sees.

What a tile's rows see in full comes first, without masks; the diagonal last. A prefix that was cached is just
keys. Rows are packed as in `decode`: row m of a tile is its query row `m // RATIO` and query head `m % RATIO`
of the group.
"""

import triton
import triton.language as tl

from quire_attn_triton.kernels.tile import attend_tile, normalised


@triton.jit
def prefill_kernel(
    q,  # [T, Hq, HEAD], rows and heads any distance apart
    out,  # [T, Hq, HEAD]
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    tiles,
    query_start,
    seq_lens,
    block_table,  # [S, B] int32
    table_stride,
    q_stride,
    q_head_stride,
    kv_heads,
    scale,
    soft_cap,
    window,
    RATIO: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_Q: tl.constexpr,  # query rows of a tile, BLOCK_M // RATIO
    HEAD: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    QUANTIZED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Program (tile, KV head)."""
    item = tl.program_id(0)
    head = tl.program_id(1)
    request = tl.load(tiles + 2 * item)
    if request < 0:
        return
    first = tl.load(tiles + 2 * item + 1) * BLOCK_Q
    seq_len = tl.load(seq_lens + request)
    query_first = tl.load(query_start + request)
    query_len = tl.load(query_start + request + 1) - query_first
    context = seq_len - query_len

    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, DIM)
    row = first + m // RATIO
    live = (m < BLOCK_Q * RATIO) & (row < query_len)
    query = (query_first + row).to(tl.int64)
    query_head = head * RATIO + m % RATIO
    stored = live[:, None] & (d < HEAD)[None, :]
    q_rows = query * q_stride + query_head * q_head_stride
    rows = tl.load(q + q_rows[:, None] + d[None, :], mask=stored, other=0.0)
    positions = tl.where(live, context + row, -1)

    end = tl.minimum(context + first + BLOCK_Q, seq_len)
    seen_by_all = (context + first + 1) // TILE * TILE
    table = block_table + request.to(tl.int64) * table_stride
    sums = tl.full([BLOCK_M, DIM], 0.0, tl.float32)
    weight = tl.full([BLOCK_M], 0.0, tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    within = 0
    if HAS_WINDOW:
        lowest = tl.maximum(context + first + 1 - window, 0) // TILE * TILE
        # From here on the last row's window holds whole tiles.
        within = (tl.maximum(context + first + BLOCK_Q - window, 0) + TILE - 1) // TILE * TILE
        seen_by_all = tl.maximum(seen_by_all, lowest)
        within = tl.minimum(within, seen_by_all)
        for key in range(lowest, within, TILE):
            sums, weight, top = attend_tile(
                (sums, weight, top), rows, positions, key, end, k_cache, v_cache, k_scale, v_scale, table,
                head, kv_heads, scale, soft_cap, window, True, HEAD, DIM, BLOCK_SIZE, TILE, HAS_CAP,
                HAS_WINDOW, QUANTIZED, UPCAST,
            )  # fmt: skip
    for key in range(within, seen_by_all, TILE):
        sums, weight, top = attend_tile(
            (sums, weight, top), rows, positions, key, end, k_cache, v_cache, k_scale, v_scale, table, head,
            kv_heads, scale, soft_cap, window, False, HEAD, DIM, BLOCK_SIZE, TILE, HAS_CAP, HAS_WINDOW,
            QUANTIZED, UPCAST,
        )  # fmt: skip
    for key in range(seen_by_all, end, TILE):
        sums, weight, top = attend_tile(
            (sums, weight, top), rows, positions, key, end, k_cache, v_cache, k_scale, v_scale, table, head,
            kv_heads, scale, soft_cap, window, True, HEAD, DIM, BLOCK_SIZE, TILE, HAS_CAP, HAS_WINDOW,
            QUANTIZED, UPCAST,
        )  # fmt: skip

    out_rows = (query * kv_heads * RATIO + query_head) * HEAD
    result = normalised(sums, weight).to(out.dtype.element_ty)
    tl.store(out + out_rows[:, None] + d[None, :], result, mask=stored)
