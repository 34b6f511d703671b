"""Argmax of rows, each row shared out among programs: chunks first, then the best of the chunks."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.order import chunk_of, order_key
from quire_kernels_triton.rows import launch_options, power_of_two


@triton.jit
def chunk_peak_kernel(  # type: ignore[no-untyped-def]
    logits, best, stride, vocab, chunks, CHUNK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = column < vocab
    x = tl.load(logits + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    # One number ranks by value first and by id, the lowest best, second.
    rank = (order_key(x).to(tl.int64) << 32) | (0x7FFFFFFF - column).to(tl.int64)
    rank = tl.where(inside, rank, -0x8000000000000000)
    tl.store(best + row * chunks + chunk, tl.max(rank, axis=0))


@triton.jit
def row_peak_kernel(  # type: ignore[no-untyped-def]
    logits, best, ids, values, invalid, stride, chunks, CHUNKS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, CHUNKS)
    rank = tl.load(best + row * chunks + chunk, mask=chunk < chunks, other=-0x8000000000000000)
    winner = 0x7FFFFFFF - (tl.max(rank, axis=0) & 0xFFFFFFFF)
    tl.store(ids + row, winner)
    value = tl.load(logits + row * stride + winner)
    tl.store(values + row, value)
    tl.store(invalid + row, tl.where(value.to(tl.float32) > float("-inf"), 0, 1))  # NaN is not greater


def takes(logits: torch.Tensor) -> bool:
    """Whether kernels read such logits, and there are any."""
    return (
        logits.is_floating_point()
        and logits.element_size() <= 4
        and logits.dim() == 2
        and logits.stride(1) == 1
        and 0 not in logits.shape
    )


def peak(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and values of the greatest logits, and whether there is nothing to draw; as the reference's."""
    rows, vocab = logits.shape
    chunk = chunk_of(vocab)
    chunks = triton.cdiv(vocab, chunk)
    best = torch.empty((rows, chunks), dtype=torch.int64, device=logits.device)
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    values = torch.empty(rows, dtype=logits.dtype, device=logits.device)
    invalid = torch.empty(rows, dtype=torch.bool, device=logits.device)
    by_chunk: Any = chunk_peak_kernel
    by_chunk[(rows, chunks)](logits, best, logits.stride(0), vocab, chunks, CHUNK=chunk, **launch_options(4))
    by_row: Any = row_peak_kernel
    by_row[(rows,)](
        logits,
        best,
        ids,
        values,
        invalid,
        logits.stride(0),
        chunks,
        CHUNKS=power_of_two(chunks),
        **launch_options(1),
    )
    return ids, values, invalid
