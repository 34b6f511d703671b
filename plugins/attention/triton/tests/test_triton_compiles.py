"""Every kernel compiles for GPUs that are not here, within their shared memory and registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quire_attn_triton.tables import (
    DECODE,
    DECODE_BLOCKS,
    PLAN_SPAN,
    PLAN_WARPS,
    PREFILL,
    REDUCE_SPAN,
    REDUCE_WARPS,
    WRITE_UNITS,
    WRITE_WARPS,
    DecodeConfig,
    Elements,
    PrefillConfig,
    decode_config,
    padded,
    prefill_config,
)
from quire_attn_triton.work import FP8

Job = dict[str, Any]

SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Bytes of shared memory that a program may have: CUDA's programming guide, by compute capability."""

REGISTERS = 64 << 10
"""Registers of a multiprocessor, on all of them."""

ONES = {
    "decode": ("table_stride", "kv_heads", "lanes", "window"),
    "plan": ("num_requests", "num_items", "num_tiles", "extra", "min_chunk", "window", "max_rows"),
    "prefill": ("table_stride", "kv_heads", "window"),
    "reduce": ("kv_heads", "lanes"),
    "write": ("tokens", "q_heads", "kv_heads", "q_parts"),
}
"""Arguments that may be 1."""

DTYPES = {
    Elements.FP32: ("float32", "float32"),
    Elements.FP32_FP8: ("float32", FP8),
    Elements.HALF: ("bfloat16", "bfloat16"),
    Elements.HALF_FP8: ("bfloat16", FP8),
}


def attention(
    config: DecodeConfig | PrefillConfig,
    elements: Elements,
    head_dim: int,
    *,
    arch: int = 90,
    ratio: int = 4,
    block_m: int = DECODE_BLOCKS[0],
    block_size: int = 16,
    masks: bool = False,
) -> Job:
    """A job that compiles the decode or the prefill kernel; `masks` for a window and a soft cap."""
    dtype, cache = DTYPES[elements]
    constants = {
        "RATIO": ratio,
        "BLOCK_M": block_m,
        "HEAD": head_dim,
        "DIM": padded(head_dim),
        "BLOCK_SIZE": block_size,
        "TILE": config.tile,
        "HAS_CAP": masks,
        "HAS_WINDOW": masks,
        "QUANTIZED": cache == FP8,
        "UPCAST": False,
    }
    kernel = "decode"
    if isinstance(config, PrefillConfig):
        kernel = "prefill"
        constants |= {"BLOCK_M": config.block_m, "BLOCK_Q": config.block_m // ratio}
    return {
        "kernel": kernel,
        "arch": arch,
        "dtype": dtype,
        "cache": cache,
        "constants": constants,
        "warps": config.warps,
        "stages": config.stages,
    }


def others(arch: int, elements: Elements, head_dim: int = 128, rotary: int = 128) -> list[Job]:
    """Jobs for the kernels that have no table."""
    dtype, cache = DTYPES[elements]
    common: Job = {"arch": arch, "dtype": dtype, "cache": cache, "stages": 3}
    plan = {"TILE": 64, "BLOCK_Q": 32, "HAS_WINDOW": True, "SPAN": PLAN_SPAN}
    reduce = {"RATIO": 4, "HEAD": head_dim, "DIM": padded(head_dim), "SPAN": REDUCE_SPAN}
    write = {
        "HEAD": head_dim,
        "DIM": padded(head_dim),
        "ROTARY": rotary,
        "INTERLEAVED": False,
        "PAIRS": padded(max(rotary // 2, 1)),
        "REST": padded(max(head_dim - rotary, 1)),
        "UNITS": WRITE_UNITS,
        "BLOCK_SIZE": 16,
        "QUANTIZED": cache == FP8,
        "ROUND": False,
    }
    return [
        {"kernel": "plan", "constants": plan, "warps": PLAN_WARPS, **common},
        {"kernel": "reduce", "constants": reduce, "warps": REDUCE_WARPS, **common},
        {"kernel": "write", "constants": write, "warps": WRITE_WARPS, **common},
    ]


def compiled(jobs: list[Job]) -> list[tuple[Job, dict[str, int]]]:
    """Compile in a process where Triton's interpreter is off, and hold each kernel to its GPU's limits."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("aot.py"))]
    done = subprocess.run(
        command, input=json.dumps(jobs), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = list(zip(jobs, json.loads(done.stdout), strict=True))
    for job, result in results:
        assert result["shared"] <= SHARED[job["arch"]], (job, result)
        assert result["registers"] * job["warps"] * 32 <= REGISTERS, (job, result)
    return results


def unique(jobs: list[Job]) -> list[Job]:
    """Without those that compile the same."""
    return list({json.dumps(job, sort_keys=True): job for job in jobs}.values())


def test_one_of_each_compiles_for_hopper() -> None:
    """Few, for quick runs: the kernels of a Llama 8B."""
    decode, prefill, *rest = compiled(
        [
            attention(decode_config(Elements.HALF, 128, 64), Elements.HALF, 128),
            attention(prefill_config(Elements.HALF, 128, 2048, 4, SHARED[90]), Elements.HALF, 128),
            *others(90, Elements.HALF),
        ]
    )
    assert decode[1]["mma"] > 0, "decode multiplies without the matrix units"
    assert decode[1]["wide_copies"] > 0, "decode copies less than 16 bytes at a time, or waits for each"
    assert prefill[1]["wgmma"] > 0, "prefill multiplies without Hopper's matrix units"
    assert prefill[1]["wide_copies"] > 0
    for job, result in (decode, prefill, *rest):
        assert result["spills"] == 0, (job, result)


@pytest.mark.slow
@pytest.mark.parametrize("elements", Elements)
def test_every_row_of_the_tables_compiles_for_hopper(elements: Elements) -> None:
    jobs = [attention(c, elements, key.dim) for key, c in DECODE.items() if key.elements is elements]
    jobs += [attention(c, elements, key.dim) for key, c in PREFILL.items() if key.elements is elements]
    for job, result in compiled(unique(jobs)):
        assert result["spills"] == 0, (job, result)
        if job["kernel"] == "prefill" and job["dtype"] != "float32":
            assert result["wgmma"] > 0, (job, result)


@pytest.mark.slow
@pytest.mark.parametrize("elements", [Elements.HALF, Elements.HALF_FP8])
def test_variants_compile_for_hopper(elements: Elements) -> None:
    """Masks, heads that are padded, blocks of other sizes, groups of other sizes, and numbers that are 1."""
    decode, prefill = decode_config(elements, 128, 64), prefill_config(elements, 128, 2048, 4, SHARED[90])
    jobs = [attention(config, elements, 128, masks=True) for config in (decode, prefill)]
    for head_dim in (80, 96, 192):
        jobs.append(attention(decode_config(elements, head_dim, 64), elements, head_dim))
        jobs.append(attention(prefill_config(elements, head_dim, 2048, 4, SHARED[90]), elements, head_dim))
    jobs += [attention(decode, elements, 128, block_size=size) for size in (32, 64, 128)]
    jobs += [attention(decode, elements, 128, block_m=rows) for rows in DECODE_BLOCKS[1:]]
    jobs += [attention(config, elements, 128, ratio=7) for config in (decode, prefill)]
    # Triton compiles arguments that are 1 as constants, of another type.
    for job in [attention(decode, elements, 128), attention(prefill, elements, 128), *others(90, elements)]:
        jobs.append({**job, "constants": job["constants"] | dict.fromkeys(ONES[job["kernel"]], 1)})
    jobs += others(90, elements, 128, rotary=32) + others(90, elements, 80, rotary=80)
    compiled(jobs)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 100])
def test_one_of_each_compiles_for_other_gpus(arch: int) -> None:
    elements = Elements.HALF
    compiled(
        [
            attention(decode_config(elements, 128, 64), elements, 128, arch=arch),
            attention(prefill_config(elements, 128, 2048, 4, SHARED[arch]), elements, 128, arch=arch),
            *others(arch, elements),
        ]
    )


@pytest.mark.parametrize("shared", [99 << 10, 163 << 10, 227 << 10])
@pytest.mark.parametrize("elements", Elements)
def test_prefill_tiles_fit_the_shared_memory_there_is(elements: Elements, shared: int) -> None:
    for head_dim in (64, 80, 128, 256):
        config = prefill_config(elements, head_dim, 4096, 4, shared)
        own, cached = elements.value
        needed = padded(head_dim) * (config.block_m * own + 2 * (config.stages - 1) * config.tile * cached)
        assert needed < shared
        assert config.tile >= 16
