"""What a step's layers share: which rows attend to which cache rows, and how they are grouped.

Everything here depends on the batch and the window alone, never on a layer's tensors, so it is
made once a step. Indices are int64 throughout: a cache may hold more rows than int32 counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from quire.contracts import AttentionBatch

_PADDED_QUERY_LEN = 16
"""Requests with up to this many rows share padded groups; longer ones are attended one by one."""

_GROUP_OVERHEAD = 512
"""A group more costs about as much time as this many padded tokens gathered for nothing."""

_GROUP_TOKENS = 1 << 10
"""Cache positions gathered at a time (unless one request alone has more). What is gathered should still be in
the processors' second-level caches when it is attended to: 24.9 ms of attention became 20.2 (2 cores with
2 MiB each, 135 M parameters, 32 requests)."""

_BIAS_ELEMENTS = 1 << 22
"""Largest bias kept for a whole step; beyond it rows are attended in slices, each with its own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Requests attended together: n requests, each with r rows and L gathered cache positions.

    Attributes:
        requests, rows, length: n, r and L.
        packed: attended with query heads packed as rows; else n is 1.
        blocks: `[n * Hkv * L / block_size]` rows of a cache tensor viewed as
            `[num_blocks * Hkv, block_size * 2 * D]`, in the order `[n, Hkv, block]`.
        row_positions: `[n, r]` positions of the rows.
        key_positions: `[n, L]` positions of the gathered keys.
        causal: not packed, and row i sees exactly the first i + 1 keys: no bias is needed.
        bias: 0 or -inf in the compute dtype. Packed: `[n, 1, G * r, L]`, row `g * r + i` being row i of
            query head g. Else `[1, 1, r, L]`, or None if `causal` or too large to be kept.
    """

    requests: int
    rows: int
    length: int
    packed: bool
    blocks: torch.Tensor
    row_positions: torch.Tensor
    key_positions: torch.Tensor
    causal: bool
    bias: torch.Tensor | None


class Buffer(NamedTuple):
    """Where a group's blocks are gathered.

    Attributes:
        rows: `[n * Hkv * L / block_size, block_size * 2 * D]`, the target of the gathering.
        k, v: strided views of it, `[n, Hkv, L, D]`.
    """

    rows: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


@dataclass(slots=True)
class Grouping:
    """All rows of a step under one window.

    Attributes:
        groups: in the order of `order`.
        order: `[T]` the step's rows, group by group; None if that is the order they have.
        restore: `[T]` its inverse.
        buffers: one per group, made by the step's first layer.
    """

    groups: tuple[Group, ...]
    order: torch.Tensor | None
    restore: torch.Tensor | None
    buffers: tuple[Buffer, ...] | None = None


@dataclass(slots=True)
class StepMetadata:
    """One step of one KV group.

    Attributes:
        batch: the step.
        block_size, num_kv_heads: the cache's geometry.
        ratio: query heads per KV head, G.
        dtype: compute dtype, which a bias must have.
        written: `[W]` rows of the step whose K and V are kept; None if all are.
        targets: `[W * Hkv]` where they go, as rows of a cache tensor viewed as
            `[num_blocks * Hkv * block_size, 2 * D]`.
    """

    batch: AttentionBatch
    block_size: int
    num_kv_heads: int
    ratio: int
    dtype: torch.dtype
    written: torch.Tensor | None = field(init=False)
    targets: torch.Tensor = field(init=False)
    _groupings: dict[int | None, Grouping] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        slots = self.batch.slot_mapping
        kept = (slots >= 0).nonzero().squeeze(1)
        self.written = None if kept.shape[0] == slots.shape[0] else kept
        slots = slots if self.written is None else slots[kept]
        block, offset = slots // self.block_size, slots % self.block_size
        heads = torch.arange(self.num_kv_heads, device=slots.device)
        self.targets = (
            (block[:, None] * self.num_kv_heads + heads) * self.block_size + offset[:, None]
        ).flatten()

    def grouping(self, window: int | None) -> Grouping:
        """The step's rows grouped for layers of this window; made when the first such layer asks."""
        if window not in self._groupings:
            self._groupings[window] = self._group(window)
        return self._groupings[window]

    def _group(self, window: int | None) -> Grouping:
        batch = self.batch
        starts = [0]
        for rows in batch.query_lens_host:
            starts.append(starts[-1] + rows)
        groups: list[Group] = []
        order: list[int] = []
        for members in self._buckets(window):
            groups.append(self._make(members, starts, window))
            for request in members:
                order.extend(range(starts[request], starts[request + 1]))
        if order == list(range(len(order))):
            return Grouping(tuple(groups), None, None)
        permutation = torch.tensor(order, device=batch.positions.device)
        return Grouping(tuple(groups), permutation, permutation.argsort())

    def _buckets(self, window: int | None) -> Iterable[list[int]]:
        """Requests to attend together: equal numbers of rows, similar numbers of blocks."""
        batch = self.batch
        short: dict[int, list[int]] = {}
        for request, rows in enumerate(batch.query_lens_host):
            if rows > _PADDED_QUERY_LEN:
                yield [request]
            elif rows > 0:
                short.setdefault(rows, []).append(request)
        for members in short.values():
            span = {request: self._span(request, window) for request in members}
            blocks = {request: last - first for request, (first, last) in span.items()}
            bucket: list[int] = []
            waste = longest = 0
            for request in sorted(members, key=lambda request: -blocks[request]):
                padding = (longest - blocks[request]) * self.block_size
                full = (len(bucket) + 1) * longest * self.block_size > _GROUP_TOKENS
                if bucket and (full or waste + padding > _GROUP_OVERHEAD):
                    yield bucket
                    bucket, waste, padding = [], 0, 0
                if not bucket:
                    longest = blocks[request]
                bucket.append(request)
                waste += padding
            yield bucket

    def _span(self, request: int, window: int | None) -> tuple[int, int]:
        """The range of the request's blocks that any of its rows may see."""
        total = self.batch.seq_lens_host[request]
        first = 0
        if window is not None:
            first = max(0, total - self.batch.query_lens_host[request] - window + 1) // self.block_size
        return first, -(-total // self.block_size)

    def _make(self, members: list[int], starts: list[int], window: int | None) -> Group:
        batch = self.batch
        device = batch.positions.device
        rows = batch.query_lens_host[members[0]]
        spans = [self._span(request, window) for request in members]
        width = max(last - first for first, last in spans)
        length = width * self.block_size
        first_blocks = torch.tensor([first for first, _ in spans], device=device)  # [n]
        requests = torch.tensor(members, device=device)
        seq_lens = batch.seq_lens[requests].long()  # [n]
        columns = first_blocks[:, None] + torch.arange(width, device=device)  # [n, width]
        # Columns past a request's end are masked; clamping only keeps the look-up inside the table.
        columns_in_table = columns.clamp_max(batch.block_table.shape[1] - 1)
        table = batch.block_table[requests[:, None], columns_in_table].long()  # [n, width]
        heads = torch.arange(self.num_kv_heads, device=device)
        blocks = table[:, None, :] * self.num_kv_heads + heads[:, None]  # [n, Hkv, width]

        row_positions = seq_lens[:, None] - rows + torch.arange(rows, device=device)  # [n, r]
        key_positions = (first_blocks * self.block_size)[:, None] + torch.arange(length, device=device)
        packed = rows <= _PADDED_QUERY_LEN
        whole = rows == batch.seq_lens_host[members[0]] and (window is None or rows <= window)
        bias = None
        if packed:
            bias = make_bias(row_positions, key_positions, window, self.dtype).repeat(1, 1, self.ratio, 1)
        elif not whole and rows * length <= _BIAS_ELEMENTS:
            bias = make_bias(row_positions, key_positions, window, self.dtype)
        return Group(
            requests=len(members),
            rows=rows,
            length=length,
            packed=packed,
            blocks=blocks.flatten(),
            row_positions=row_positions,
            key_positions=key_positions,
            causal=whole and not packed,
            bias=bias,
        )


def make_bias(
    row_positions: torch.Tensor, key_positions: torch.Tensor, window: int | None, dtype: torch.dtype
) -> torch.Tensor:
    """`[n, r]` and `[n, L]` positions -> `[n, 1, r, L]`: 0 where the row sees the key, else -inf."""
    distance = row_positions[:, :, None] - key_positions[:, None, :]  # [n, r, L]
    unseen = distance < 0
    if window is not None:
        unseen |= distance >= window
    zeros = torch.zeros(unseen.shape, dtype=dtype, device=unseen.device)
    return zeros.masked_fill_(unseen, float("-inf")).unsqueeze(1)
