"""The logarithm of each row's softmax at one id, that id's rank, and what to subtract for others.

Chunks of a row are summed each by a program, always the same chunks, so a row's bits are its own. Nothing of
the size of the logits is written.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.order import chunk_of
from quire_kernels_triton.rows import launch_options, power_of_two


@triton.jit
def chunk_logsum_kernel(  # type: ignore[no-untyped-def]
    logits, stride, vocab, ids, peaks, sums, greater, chunks, CHUNK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    column = chunk * CHUNK + tl.arange(0, CHUNK)
    start = logits + row * stride
    x = tl.load(start + column, mask=column < vocab, other=float("-inf")).to(tl.float32)
    chosen = tl.load(start + tl.load(ids + row).to(tl.int64)).to(tl.float32)
    peak = tl.load(peaks + row).to(tl.float32)
    # Of a row of nothing but -inf everything is NaN, as it is of softmax; so it is of one with +inf.
    total = tl.sum(tl.where(column < vocab, tl.exp(x - peak), 0.0), axis=0)
    place = row * chunks + chunk
    tl.store(sums + place, total)
    tl.store(greater + place, tl.sum((x > chosen).to(tl.int32), axis=0))


@triton.jit
def row_logsum_kernel(  # type: ignore[no-untyped-def]
    logits, stride, ids, peaks, sums, greater, chosen, rank, normaliser, chunks, CHUNKS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, CHUNKS)
    total = tl.sum(tl.load(sums + row * chunks + chunk, mask=chunk < chunks, other=0.0), axis=0)
    above = tl.sum(tl.load(greater + row * chunks + chunk, mask=chunk < chunks, other=0), axis=0)
    peak = tl.load(peaks + row).to(tl.float32)
    x = tl.load(logits + row * stride + tl.load(ids + row).to(tl.int64)).to(tl.float32)
    log = tl.log(total)
    tl.store(chosen + row, (x - peak) - log)
    tl.store(rank + row, above.to(tl.int64) + 1)
    tl.store(normaliser + row, log)


def gather(
    logits: torch.Tensor, ids: torch.Tensor, peaks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log probability `[R]` fp32 and rank `[R]` int64 of ids `[R]`; `log(sum(exp(row - peak)))`, `[R]`."""
    rows, vocab = logits.shape
    chunk = chunk_of(vocab)
    chunks = triton.cdiv(vocab, chunk)
    device = logits.device
    sums = torch.empty((rows, chunks), dtype=torch.float32, device=device)
    greater = torch.empty((rows, chunks), dtype=torch.int32, device=device)
    chosen = torch.empty(rows, dtype=torch.float32, device=device)
    normaliser = torch.empty(rows, dtype=torch.float32, device=device)
    rank = torch.empty(rows, dtype=torch.int64, device=device)
    stride = logits.stride(0)
    by_chunk: Any = chunk_logsum_kernel
    by_chunk[(rows, chunks)](
        logits, stride, vocab, ids, peaks, sums, greater, chunks, CHUNK=chunk, **launch_options(4)
    )
    by_row: Any = row_logsum_kernel
    by_row[(rows,)](
        logits,
        stride,
        ids,
        peaks,
        sums,
        greater,
        chosen,
        rank,
        normaliser,
        chunks,
        CHUNKS=power_of_two(chunks),
        **launch_options(1),
    )
    return chosen, rank, normaliser
