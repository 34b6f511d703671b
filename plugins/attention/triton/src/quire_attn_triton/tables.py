"""Launch parameters by element type, head size, batch and rows: the only place that has any.

**Not tuned on a GPU yet.** The numbers are reasoned, for Hopper, from what the compiler makes of them there:

* A decode program has one tile of K and one of V on their way while it meets another (three stages: the
  block table comes before them), 32 KiB with tiles of 64 keys and heads of 128 in 16 bits. Registers let four
  such programs share a multiprocessor, and 29 KiB on their way per multiprocessor cover the memory's latency
  at its full rate.
* A prefill program has 64 rows per 4 warps, as the matrix units take them, and the largest tile for which its
  sums (`block_m * dim` fp32) and scores still fit its registers; shared memory holds q and two tiles each of
  K and V.
* In fp32 products run without the matrix units: small tiles, that nothing spills.

That each row compiles for Hopper within its shared memory and registers is tested. `tools/tune_triton.py`
times each row's neighbours on a GPU and prints the tables that it finds; nothing is ever tuned while an
engine runs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import NamedTuple

LARGEST_HEAD = 256
LARGEST_RATIO = 128
LARGEST_BLOCK = 256
DECODE_BLOCKS = (16, 32, 64)
"""Rows of a decode program: query rows times query heads per KV head. Requests with more rows prefill."""

ANY = 1 << 30


class Elements(enum.Enum):
    """What kernels compute and read: the value is bytes of an element of q, and of the cache."""

    FP32 = (4, 4)
    FP32_FP8 = (4, 1)
    HALF = (2, 2)
    """fp16 or bf16."""
    HALF_FP8 = (2, 1)


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How decode is launched.

    Attributes:
        tile: keys met at a time.
        warps, stages: of a program.
        waves: programs per multiprocessor that splitting aims at. More even out requests of unlike length,
            and each costs partial results to be written and read.
        min_chunk: fewest keys of a split.
    """

    tile: int
    warps: int
    stages: int
    waves: int
    min_chunk: int


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """How prefill is launched.

    Attributes:
        block_m: rows of a program: query rows times query heads per KV head.
        tile: keys met at a time.
        warps, stages: of a program.
    """

    block_m: int
    tile: int
    warps: int
    stages: int


class DecodeKey(NamedTuple):
    """For which elements, and up to which padded head size and batch, a row of `DECODE` holds."""

    elements: Elements
    dim: int
    batch: int


class PrefillKey(NamedTuple):
    """For which elements, and up to which padded head size and rows of the longest request, a row holds."""

    elements: Elements
    dim: int
    rows: int


_FP32, _FP32_FP8, _HALF, _HALF_FP8 = Elements.FP32, Elements.FP32_FP8, Elements.HALF, Elements.HALF_FP8

DECODE: dict[DecodeKey, DecodeConfig] = {
    DecodeKey(_HALF, 64, 8): DecodeConfig(tile=64, warps=4, stages=3, waves=4, min_chunk=64),
    DecodeKey(_HALF, 64, ANY): DecodeConfig(tile=128, warps=4, stages=3, waves=8, min_chunk=256),
    DecodeKey(_HALF, 128, 8): DecodeConfig(tile=64, warps=4, stages=3, waves=4, min_chunk=64),
    DecodeKey(_HALF, 128, ANY): DecodeConfig(tile=64, warps=4, stages=3, waves=8, min_chunk=256),
    DecodeKey(_HALF, 256, 8): DecodeConfig(tile=32, warps=4, stages=3, waves=4, min_chunk=64),
    DecodeKey(_HALF, 256, ANY): DecodeConfig(tile=32, warps=4, stages=3, waves=8, min_chunk=256),
    DecodeKey(_HALF_FP8, 64, 8): DecodeConfig(tile=64, warps=4, stages=3, waves=4, min_chunk=64),
    DecodeKey(_HALF_FP8, 64, ANY): DecodeConfig(tile=128, warps=8, stages=3, waves=8, min_chunk=256),
    DecodeKey(_HALF_FP8, 128, 8): DecodeConfig(tile=64, warps=4, stages=3, waves=4, min_chunk=64),
    DecodeKey(_HALF_FP8, 128, ANY): DecodeConfig(tile=64, warps=4, stages=3, waves=8, min_chunk=256),
    DecodeKey(_HALF_FP8, 256, ANY): DecodeConfig(tile=32, warps=4, stages=3, waves=4, min_chunk=128),
    DecodeKey(_FP32, 64, ANY): DecodeConfig(tile=32, warps=4, stages=2, waves=4, min_chunk=64),
    DecodeKey(_FP32, 256, ANY): DecodeConfig(tile=16, warps=4, stages=2, waves=4, min_chunk=64),
    DecodeKey(_FP32_FP8, 256, ANY): DecodeConfig(tile=16, warps=4, stages=1, waves=4, min_chunk=64),
}

PREFILL: dict[PrefillKey, PrefillConfig] = {
    PrefillKey(_HALF, 64, 64): PrefillConfig(block_m=64, tile=64, warps=4, stages=3),
    PrefillKey(_HALF, 64, ANY): PrefillConfig(block_m=128, tile=128, warps=8, stages=3),
    PrefillKey(_HALF, 128, 64): PrefillConfig(block_m=64, tile=64, warps=4, stages=3),
    PrefillKey(_HALF, 128, ANY): PrefillConfig(block_m=128, tile=128, warps=8, stages=3),
    PrefillKey(_HALF, 256, 64): PrefillConfig(block_m=64, tile=32, warps=4, stages=3),
    PrefillKey(_HALF, 256, ANY): PrefillConfig(block_m=128, tile=32, warps=8, stages=3),
    PrefillKey(_HALF_FP8, 64, 64): PrefillConfig(block_m=64, tile=64, warps=4, stages=3),
    PrefillKey(_HALF_FP8, 64, ANY): PrefillConfig(block_m=128, tile=128, warps=8, stages=3),
    PrefillKey(_HALF_FP8, 128, 64): PrefillConfig(block_m=64, tile=64, warps=4, stages=3),
    PrefillKey(_HALF_FP8, 128, ANY): PrefillConfig(block_m=128, tile=64, warps=8, stages=3),
    PrefillKey(_HALF_FP8, 256, ANY): PrefillConfig(block_m=128, tile=32, warps=8, stages=3),
    PrefillKey(_FP32, 64, ANY): PrefillConfig(block_m=32, tile=16, warps=4, stages=2),
    PrefillKey(_FP32, 128, ANY): PrefillConfig(block_m=32, tile=16, warps=8, stages=2),
    PrefillKey(_FP32, 256, ANY): PrefillConfig(block_m=16, tile=16, warps=4, stages=2),
    PrefillKey(_FP32_FP8, 256, ANY): PrefillConfig(block_m=16, tile=16, warps=4, stages=1),
}

WRITE_UNITS, WRITE_WARPS = 16, 4
"""Heads of tokens that a program rotates or writes, and its warps."""

REDUCE_SPAN, REDUCE_WARPS = 16, 4
"""Partial results that the reduction takes at a time, and its warps."""

PLAN_SPAN, PLAN_WARPS = 256, 4
"""Requests that the planning takes at a time, and its warps."""

_SCRATCH = 8 << 10
"""Shared memory that a program needs beside its tiles, at most about so much."""


def padded(size: int) -> int:
    """The power of two that holds `size` elements, 16 at least: what a matrix product takes."""
    return max(16, 1 << (size - 1).bit_length())


def decode_config(elements: Elements, head_dim: int, batch: int) -> DecodeConfig:
    """The first row of `DECODE` that holds."""
    dim = padded(head_dim)
    rows = DECODE.items()
    return next(c for k, c in rows if k.elements is elements and dim <= k.dim and batch <= k.batch)


def prefill_config(elements: Elements, head_dim: int, rows: int, ratio: int, shared: int) -> PrefillConfig:
    """The first row of `PREFILL` that holds, in a block that holds a row of `ratio` heads.

    Args:
        elements, head_dim: what is computed.
        rows: of the longest request.
        ratio: query heads per KV head.
        shared: bytes of shared memory that a program may have; tiles are halved until they fit, for GPUs with
            less of it than Hopper's.
    """
    dim = padded(head_dim)
    held = PREFILL.items()
    config = next(c for k, c in held if k.elements is elements and dim <= k.dim and rows <= k.rows)
    config = replace(config, block_m=max(config.block_m, padded(ratio)))
    while config.tile > 16 and prefill_shared(config, elements, dim) > shared:
        config = replace(config, tile=config.tile // 2)
    return config


def prefill_shared(config: PrefillConfig, elements: Elements, dim: int) -> int:
    """About how many bytes of shared memory a prefill program needs: q, and its tiles of K and V."""
    own, cached = elements.value
    buffers = max(config.stages - 1, 1)
    return dim * (config.block_m * own + 2 * buffers * config.tile * cached) + _SCRATCH


def decode_block(ratio: int, max_query_len: int) -> int:
    """Rows of a decode program in a step whose longest request has `max_query_len` rows.

    Few sizes, since each is another kernel to compile: the smallest that holds all rows of every request; if
    none does, the smallest that holds one row of a request.
    """
    sizes = [size for size in DECODE_BLOCKS if size >= ratio] or [padded(ratio)]
    return next((size for size in sizes if size >= ratio * max_query_len), sizes[0])
