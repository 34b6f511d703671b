"""FlashInfer's page table of a step: compressed rows of block ids, from lengths that the host knows.

Knows lengths and block tables. Nothing here waits for the device, and no block is named that no row sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quire.contracts import AttentionBatch
from quire.ops.upload import pack, unpack


@dataclass(frozen=True, slots=True)
class PageTable:
    """Pages of n requests. On the host are tensors that FlashInfer plans with, pinned where that helps.

    Attributes:
        query_start: `[n + 1]` int32, on the host; of the n requests' rows, request i has
            `query_start[i]:query_start[i + 1]`.
        indptr: `[n + 1]` int32, on the host; it has pages `indices[indptr[i]:indptr[i + 1]]`, one at least.
        last_page_len: `[n]` int32, on the host; tokens of its last page, one at least.
        indices: `[indptr[n]]` int32, on the device; block ids.
    """

    query_start: torch.Tensor
    indptr: torch.Tensor
    last_page_len: torch.Tensor
    indices: torch.Tensor


def page_table(
    batch: AttentionBatch, requests: Sequence[int], block_size: int, window: int | None
) -> PageTable:
    """The pages that some requests' rows see.

    A request that holds nothing, as those that fill up a captured step, is given one token of the null
    block: FlashInfer then has something to weigh, and what comes of it is finite.

    Args:
        batch: the step.
        requests: which of its requests, ascending; at least one, each with rows.
        block_size: tokens per block.
        window: see `AttentionLayer`; blocks before the window of a request's first row are left out, so
            the last of its tokens are what remains, and relative positions are what they were.
    """
    some = np.asarray(requests, np.int64)  # [n]
    rows = np.asarray(batch.query_lens_host, np.int64)[some]
    tokens = np.maximum(np.asarray(batch.seq_lens_host, np.int64)[some], 1)
    first = np.zeros_like(some)
    if window is not None:
        first = np.maximum(tokens - rows - window + 1, 0) // block_size
    pages = -(-tokens // block_size) - first  # [n]
    indptr, query_start = _starts(pages), _starts(rows)
    # From a page's place among all to its place in the block table, read as one row.
    shift = some * batch.block_table.shape[1] + first - indptr[:-1]

    small = (query_start, indptr, (tokens - 1) % block_size + 1)
    device = batch.block_table.device
    host = tuple(torch.from_numpy(x) for x in (*(x.astype(np.int32) for x in small), pages, shift))
    staged = pack(host, pin_memory=device.type == "cuda")
    on_device = unpack(staged.to(device, non_blocking=True), host)
    total = int(indptr[-1])
    places = torch.repeat_interleave(on_device[4], on_device[3], output_size=total)
    places += torch.arange(total, device=device)
    indices = batch.block_table.reshape(-1).index_select(0, places)
    on_host = unpack(staged, host)
    return PageTable(on_host[0], on_host[1], on_host[2], indices)


def _starts(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """`[n]` lengths -> `[n + 1]` where each begins, and the end."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts
