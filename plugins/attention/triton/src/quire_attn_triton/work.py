"""`Work`: what of a step's launches is decided on the host, from the batch's shape alone. Knows no tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quire.contracts import AttentionNeed
from quire_attn_triton.tables import (
    DecodeConfig,
    Elements,
    PrefillConfig,
    decode_block,
    decode_config,
    prefill_config,
)

FP8 = "float8_e4m3fn"
_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, FP8: 1}


@dataclass(frozen=True, slots=True)
class Machine:
    """What of a GPU decides launches.

    Attributes:
        multiprocessors: how many it has.
        shared: bytes of shared memory that a program may have.
    """

    multiprocessors: int
    shared: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a step's shape decides, on the host.

    Attributes:
        decode, prefill: launch parameters.
        decode_block: rows of a decode program.
        max_rows: requests with up to this many rows are attended by the decode kernel, the others by the
            prefill kernel.
        lanes: rows of a decode program that are in use at most.
        tile_rows: query rows of a prefill program.
        extra: more splits than requests that there may be.
        has_decodes, has_prefills: whether the one and the other kernel are launched.
        window: 0 for full attention.
        partial_rows: rows of `padded(head_dim)` fp32 sums that splits can leave behind at most.
    """

    decode: DecodeConfig
    prefill: PrefillConfig
    decode_block: int
    max_rows: int
    lanes: int
    tile_rows: int
    extra: int
    has_decodes: bool
    has_prefills: bool
    window: int
    partial_rows: int


def work_of(need: AttentionNeed, machine: Machine, query_lens: Sequence[int], max_query_len: int) -> Work:
    """How to launch a step.

    Args:
        need: the group's.
        machine: the GPU.
        query_lens, max_query_len: rows of each request, and of the longest.
    """
    cache = need.cache
    ratio = need.num_q_heads // cache.num_kv_heads
    elements = Elements((_SIZES[need.dtype], _SIZES[cache.dtype]))
    decode = decode_config(elements, cache.head_dim, len(query_lens))
    prefill = prefill_config(elements, cache.head_dim, max_query_len, ratio, machine.shared)
    block = decode_block(ratio, max_query_len)
    max_rows = block // ratio
    lanes = min(max_query_len, max_rows) * ratio
    extra = -(-decode.waves * machine.multiprocessors // cache.num_kv_heads)
    return Work(
        decode=decode,
        prefill=prefill,
        decode_block=block,
        max_rows=max_rows,
        lanes=lanes,
        tile_rows=prefill.block_m // ratio,
        extra=extra,
        has_decodes=min(query_lens, default=0) <= max_rows,
        has_prefills=max_query_len > max_rows,
        window=cache.window or 0,
        # Of requests with two splits or more, which are at most twice as many as the splits beyond the first.
        partial_rows=2 * extra * cache.num_kv_heads * lanes,
    )
