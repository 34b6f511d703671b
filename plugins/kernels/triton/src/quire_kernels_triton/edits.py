"""What changes single logits or all of them before a cut: penalties, temperature, min-p."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.rows import launch_options

ENTRIES = 256
COLUMNS = 2048


@triton.jit
def penalties_kernel(  # type: ignore[no-untyped-def]
    out, places, factors, counts, frequency, presence, entries, ENTRIES: tl.constexpr
):
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    inside = entry < entries
    place = tl.load(places + entry, mask=inside, other=0)
    x = tl.load(out + place, mask=inside, other=0.0)
    factor = tl.load(factors + entry, mask=inside, other=1.0)
    count = tl.load(counts + entry, mask=inside, other=0.0)
    x = tl.where(x > 0, tl.div_rn(x, factor), x * factor)
    x -= tl.load(frequency + entry, mask=inside, other=0.0) * count
    x -= tl.where(count > 0, tl.load(presence + entry, mask=inside, other=0.0), 0.0)
    tl.store(out + place, x, mask=inside)


@triton.jit
def temperature_kernel(  # type: ignore[no-untyped-def]
    logits, stride, vocab, temperature, out, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x = tl.load(logits + row * stride + column, mask=column < vocab, other=0.0).to(tl.float32)
    tl.store(out + row * vocab + column, tl.div_rn(x, tl.load(temperature + row)), mask=column < vocab)


@triton.jit
def min_p_kernel(  # type: ignore[no-untyped-def]
    logits, stride, vocab, peaks, margin, out, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    x = tl.load(logits + row * stride + column, mask=column < vocab, other=0.0)
    least = tl.load(peaks + row) + tl.load(margin + row)
    tl.store(out + row * vocab + column, tl.where(x < least, float("-inf"), x), mask=column < vocab)


def penalise(
    logits: torch.Tensor,
    places: torch.Tensor,
    factors: torch.Tensor,
    counts: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> torch.Tensor:
    """A copy of `[R, V]` fp32 logits with penalties at `places`, flat indices; `[E]` each, on the device."""
    out = logits.clone(memory_format=torch.contiguous_format)
    kernel: Any = penalties_kernel
    kernel[(triton.cdiv(len(places), ENTRIES),)](
        out, places, factors, counts, frequency, presence, len(places), ENTRIES=ENTRIES, **launch_options(4)
    )
    return out


def temper(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """`[R, V]` fp32: each row over its temperature, `[R]` fp32 on the device."""
    rows, vocab = logits.shape
    out = torch.empty((rows, vocab), dtype=torch.float32, device=logits.device)
    kernel: Any = temperature_kernel
    kernel[(rows, triton.cdiv(vocab, COLUMNS))](
        logits, logits.stride(0), vocab, temperature, out, COLUMNS=COLUMNS, **launch_options(4)
    )
    return out


def drop_unlikely(logits: torch.Tensor, peaks: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """`[R, V]` fp32, -inf below `peaks + margin`, `[R]` fp32 each, on the device."""
    rows, vocab = logits.shape
    out = torch.empty((rows, vocab), dtype=torch.float32, device=logits.device)
    kernel: Any = min_p_kernel
    kernel[(rows, triton.cdiv(vocab, COLUMNS))](
        logits, logits.stride(0), vocab, peaks, margin, out, COLUMNS=COLUMNS, **launch_options(4)
    )
    return out
