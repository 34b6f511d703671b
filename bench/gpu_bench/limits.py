"""Part `limits`: what the device reaches at best, against which all else is held."""

from __future__ import annotations

from functools import partial

import torch

from gpu_bench.bench import Bench
from gpu_bench.record import Row
from gpu_bench.roofline import Limits

COPY_BYTES = 4 << 30
"""Many times any L2."""

PRODUCT = 8192
ROUNDS = 20


def run(bench: Bench) -> None:
    """Copy and multiply. Random numbers: a product of zeros draws less power, and may run faster."""
    nbytes, size = (4 << 20, 128) if bench.toy else (COPY_BYTES, PRODUCT)
    source = torch.randint(-(2**31), 2**31 - 1, (nbytes // 4,), dtype=torch.int32, device=bench.device)
    target = torch.empty_like(source)
    copying = bench.median_seconds([partial(target.copy_, source)], ROUNDS)
    del source, target
    a, b = (torch.randn(size, size, device=bench.device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    multiplying = bench.median_seconds([partial(torch.mm, a, b, out=out)], ROUNDS)
    bench.row(
        {},
        {
            "copy_gb_s": 2 * nbytes / copying / 1e9,
            "gemm_tflop_s": 2 * size**3 / multiplying / 1e12,
        },
    )


def limits_of(rows: list[Row]) -> Limits | None:
    """What `run` found, if it did."""
    return Limits.model_validate(rows[0].figures) if rows else None
