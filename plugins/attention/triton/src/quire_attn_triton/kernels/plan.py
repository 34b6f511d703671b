"""`plan_kernel`: the step's work, laid out on the device from the lengths that are there.

Nothing of it is known on the host: neither how many splits a request gets nor how many there are. What the
host knows, the numbers of requests and of rows, bounds both, and the bounds are the grids of the other
kernels.
"""

import triton
import triton.language as tl


@triton.jit
def visible_from(seq_len, query_len, window, TILE: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """The first key that any of a request's rows sees, rounded down to a whole tile."""
    if HAS_WINDOW:
        return tl.maximum(seq_len - query_len + 1 - window, 0) // TILE * TILE
    return seq_len * 0


@triton.jit
def _lengths(seq_lens, query_start, request, num_requests):
    """Sequence and query lengths of requests [SPAN]; 0 past the last."""
    live = request < num_requests
    seq_len = tl.load(seq_lens + request, mask=live, other=0)
    first = tl.load(query_start + request, mask=live, other=0)
    after = tl.load(query_start + request + 1, mask=live, other=0)
    return seq_len, after - first


@triton.jit
def _splits(seq_len, query_len, window, chunk, max_rows, TILE: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """Into how many parts the keys of decoding requests are split; 0 for the others."""
    keys = seq_len - visible_from(seq_len, query_len, window, TILE, HAS_WINDOW)
    decodes = (query_len > 0) & (query_len <= max_rows)
    return tl.where(decodes, tl.maximum((keys + chunk - 1) // chunk, 1), 0)


@triton.jit
def plan_kernel(
    seq_lens,  # [S] int32
    query_start,  # [S + 1] int32
    items,  # [num_items, 2] int32: request or -1, split
    splits,  # [S, 2] int32: splits of the request, its first place among the partial results
    chunk_out,  # [1] int32: keys of a split
    tiles,  # [num_tiles, 2] int32: request or -1, tile
    num_requests,
    num_items,
    num_tiles,
    extra,  # more splits than requests that there may be
    min_chunk,
    window,
    max_rows,  # requests with up to this many rows decode, the others prefill
    TILE: tl.constexpr,
    BLOCK_Q: tl.constexpr,  # query rows of a prefill tile
    HAS_WINDOW: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Program s lays out request s; the last one marks what is left over as nobody's.

    With `chunk >= keys of all / extra` there are at most `S + extra` splits, whatever the lengths.
    """
    own = tl.program_id(0)
    lane = tl.arange(0, SPAN)
    keys = tl.full([SPAN], 0, tl.int64)
    for start in range(0, num_requests, SPAN):
        seq_len, query_len = _lengths(seq_lens, query_start, start + lane, num_requests)
        decodes = (query_len > 0) & (query_len <= max_rows)
        keys += tl.where(decodes, seq_len - visible_from(seq_len, query_len, window, TILE, HAS_WINDOW), 0)
    chunk = tl.maximum((tl.sum(keys, 0) + extra - 1) // extra, min_chunk).to(tl.int32)
    chunk = (chunk + TILE - 1) // TILE * TILE

    items_before = tl.full([SPAN], 0, tl.int32)
    partials_before = tl.full([SPAN], 0, tl.int32)
    tiles_before = tl.full([SPAN], 0, tl.int32)
    for start in range(0, own, SPAN):
        request = start + lane
        seq_len, query_len = _lengths(seq_lens, query_start, request, own)
        count = _splits(seq_len, query_len, window, chunk, max_rows, TILE, HAS_WINDOW)
        items_before += count
        partials_before += tl.where(count > 1, count, 0)
        tiles_before += tl.where(query_len > max_rows, (query_len + BLOCK_Q - 1) // BLOCK_Q, 0)

    seq_len = tl.load(seq_lens + own)
    query_len = tl.load(query_start + own + 1) - tl.load(query_start + own)
    count = _splits(seq_len, query_len, window, chunk, max_rows, TILE, HAS_WINDOW)
    first_item = tl.sum(items_before, 0)
    tl.store(splits + 2 * own, count)
    tl.store(splits + 2 * own + 1, tl.sum(partials_before, 0))
    for start in range(0, count, SPAN):
        place = items + 2 * (first_item + start + lane)
        tl.store(place, own + lane * 0, mask=start + lane < count)
        tl.store(place + 1, start + lane, mask=start + lane < count)

    count_tiles = tl.where(query_len > max_rows, (query_len + BLOCK_Q - 1) // BLOCK_Q, 0)
    first_tile = tl.sum(tiles_before, 0)
    for start in range(0, count_tiles, SPAN):
        place = tiles + 2 * (first_tile + start + lane)
        tl.store(place, own + lane * 0, mask=start + lane < count_tiles)
        # The last tile sees the most keys: it starts first, so that no long one is left at the end.
        tl.store(place + 1, count_tiles - 1 - start - lane, mask=start + lane < count_tiles)

    if own == 0:
        tl.store(chunk_out, chunk)
    if own == num_requests - 1:
        for start in range(first_item + count, num_items, SPAN):
            tl.store(items + 2 * (start + lane), lane * 0 - 1, mask=start + lane < num_items)
        for start in range(first_tile + count_tiles, num_tiles, SPAN):
            tl.store(tiles + 2 * (start + lane), lane * 0 - 1, mask=start + lane < num_tiles)
