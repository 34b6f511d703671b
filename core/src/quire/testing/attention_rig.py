"""`AttentionRig`: a backend, one layer's cache and requests in it, for the attention suite.

Knows the attention contract and dense attention; no scheduler and no KV manager.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import pytest
import torch

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    CacheKind,
    CacheSpec,
    Rope,
)

TOLERANCES = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest difference from fp64, absolute and relative, for inputs of unit variance."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a backend is asked for.

    Attributes:
        kv_heads, ratio, head_dim: KV heads, query heads per KV head, elements per head.
        block_size: tokens per block.
        window, soft_cap: see `AttentionLayer`.
    """

    kv_heads: int = 2
    ratio: int = 2
    head_dim: int = 16
    block_size: int = 16
    window: int | None = None
    soft_cap: float | None = None


@dataclass(slots=True)
class Request:
    """One request: all of its tokens, `computed` of which are in the cache.

    Attributes:
        q: `[N, Hq, D]`.
        k, v: `[N, Hkv, D]`.
        blocks: block ids in order.
        computed: tokens in the cache.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    blocks: list[int]
    computed: int = 0


class AttentionRig:
    """A backend with one layer's cache, and requests in it; blocks are dealt at random."""

    def __init__(
        self,
        backend_class: type[AttentionBackend],
        shape: Shape,
        *,
        device: str,
        dtype: str,
        num_blocks: int = 64,
        deterministic: bool = False,
        seed: int = 0,
    ) -> None:
        self.shape, self.device, self.dtype = shape, device, getattr(torch, dtype)
        self.num_blocks = num_blocks
        kind = CacheKind.FULL if shape.window is None else CacheKind.SLIDING_WINDOW
        need = AttentionNeed(
            device=torch.device(device).type,
            dtype=dtype,
            deterministic=deterministic,
            cache=CacheSpec(
                kind=kind,
                num_kv_heads=shape.kv_heads,
                head_dim=shape.head_dim,
                dtype=dtype,
                window=shape.window,
            ),
            num_q_heads=shape.kv_heads * shape.ratio,
            block_size=shape.block_size,
            soft_cap=shape.soft_cap,
        )
        reason = backend_class.reject(need)
        if reason is not None:
            pytest.skip(reason)
        self.backend = backend_class(
            AttentionInit(
                need=need,
                device=device,
                max_num_seqs=16,
                max_num_batched_tokens=num_blocks * shape.block_size,
                max_model_len=num_blocks * shape.block_size,
            )
        )
        self.layer = AttentionLayer(
            index=0,
            num_q_heads=need.num_q_heads,
            num_kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            scale=shape.head_dim**-0.5,
            window=shape.window,
            soft_cap=shape.soft_cap,
        )
        self.layout = self.backend.kv_layout(num_blocks)
        self.kv = {
            name: torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype), device=device)
            for name, tensor in self.layout.tensors.items()
        }
        for name, tensor in self.kv.items():
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))
                self.blocks_of(name)[0] = 0
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.free = self.random.sample(range(1, num_blocks), num_blocks - 1)
        self.rope: Rope | None = None
        if backend_class.applies_rotary:
            same = torch.Generator().manual_seed(0)  # whatever the rig's seed: one model, many requests
            angles = torch.randn(1024, shape.head_dim // 2, generator=same)
            self.rope = Rope(torch.cat((angles.cos(), angles.sin()), dim=-1).to(device))

    def normal(self, *size: int) -> torch.Tensor:
        """Unit normal values in the compute dtype."""
        return torch.randn(size, generator=self.generator).to(self.dtype).to(self.device)

    def add(self, total: int) -> Request:
        """A request of `total` tokens with blocks for all of them, none computed."""
        shape = self.shape
        heads = shape.kv_heads * shape.ratio
        blocks = [self.free.pop() for _ in range(-(-total // shape.block_size))]
        for name, tensor in self.kv.items():
            if tensor.is_floating_point():  # what is past the end is finite, and must not be seen
                self.blocks_of(name)[blocks] = 50.0
        q = self.normal(total, heads, shape.head_dim)
        k, v = (self.normal(total, shape.kv_heads, shape.head_dim) for _ in range(2))
        return Request(q, k, v, blocks)

    def slot(self, sequence: Request, position: int) -> int:
        """Where a token's K and V go."""
        block_size = self.shape.block_size
        return sequence.blocks[position // block_size] * block_size + position % block_size

    def batch(self, sequences: Sequence[Request], counts: Sequence[int]) -> AttentionBatch:
        """The step that computes the next `counts[i]` tokens of `sequences[i]`."""
        ends = [sequence.computed + count for sequence, count in zip(sequences, counts, strict=True)]
        spans = [range(sequence.computed, end) for sequence, end in zip(sequences, ends, strict=True)]
        width = max((len(sequence.blocks) for sequence in sequences), default=0) + 1
        table = [sequence.blocks + [0] * (width - len(sequence.blocks)) for sequence in sequences]
        slots = [
            self.slot(sequence, position)
            for sequence, span in zip(sequences, spans, strict=True)
            for position in span
        ]
        positions = [position for span in spans for position in span]
        device = self.device
        return AttentionBatch(
            query_start=torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=device),
            seq_lens=torch.tensor(ends, dtype=torch.int32, device=device),
            positions=torch.tensor(positions, dtype=torch.int64, device=device),
            block_table=torch.tensor(table, dtype=torch.int32, device=device).view(len(table), width),
            slot_mapping=torch.tensor(slots, dtype=torch.int64, device=device),
            max_query_len=max(counts, default=0),
            max_seq_len=max(ends, default=0),
            query_lens_host=list(counts),
            seq_lens_host=ends,
        )

    def run(
        self, sequences: Sequence[Request], counts: Sequence[int], batch: AttentionBatch | None = None
    ) -> list[torch.Tensor]:
        """Compute a step and return each request's output rows, `[count, Hq, D]`."""
        batch = self.batch(sequences, counts) if batch is None else batch
        heads, dim = self.shape.kv_heads * self.shape.ratio, self.shape.head_dim

        def rows(name: str, num_heads: int) -> torch.Tensor:
            parts = [
                getattr(sequence, name)[sequence.computed : sequence.computed + count]
                for sequence, count in zip(sequences, counts, strict=True)
            ]
            return torch.cat([self.normal(0, num_heads, dim), *parts])

        q, k, v = rows("q", heads), rows("k", self.shape.kv_heads), rows("v", self.shape.kv_heads)
        with torch.inference_mode():
            out = self.backend.forward(q, k, v, self.kv, self.backend.plan(batch), self.layer, self.rope)
        assert out.shape == q.shape
        assert out.dtype == q.dtype
        for sequence, count in zip(sequences, counts, strict=True):
            sequence.computed += count
        return list(torch.split(out, list(counts)))

    def blocks_of(self, name: str) -> torch.Tensor:
        """A cache tensor with its block axis in front."""
        return self.kv[name].movedim(self.layout.tensors[name].block_axis, 0)

    def expected(self, sequence: Request, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) by dense attention in fp64, `[stop - start, Hq, D]`."""
        q, k, v = (getattr(sequence, name)[:stop].double() for name in ("q", "k", "v"))
        if self.rope is not None:
            q, k = _rotate(q, self.rope), _rotate(k, self.rope)
        k, v = (x.repeat_interleave(self.shape.ratio, dim=1) for x in (k, v))
        scores = torch.einsum("rhd,lhd->hrl", q[start:], k) * self.layer.scale
        if self.layer.soft_cap is not None:
            scores = torch.tanh(scores / self.layer.soft_cap) * self.layer.soft_cap
        positions = torch.arange(stop, device=q.device)
        distance = positions[start:, None] - positions
        unseen = distance < 0
        if self.layer.window is not None:
            unseen = unseen | (distance >= self.layer.window)
        weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
        return torch.einsum("hrl,lhd->rhd", weights, v)

    def check(self, sequences: Sequence[Request], counts: Sequence[int]) -> None:
        """Compute a step and compare every row with the reference."""
        starts = [sequence.computed for sequence in sequences]
        outs = self.run(sequences, counts)
        for sequence, start, out in zip(sequences, starts, outs, strict=True):
            self.close(out, self.expected(sequence, start, sequence.computed))

    def close(self, actual: torch.Tensor, expected: torch.Tensor) -> None:
        """Equal within the compute dtype's tolerance."""
        tolerance = TOLERANCES[str(self.dtype).removeprefix("torch.")]
        torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance, rtol=tolerance)


def _rotate(x: torch.Tensor, rope: Rope) -> torch.Tensor:
    """Rotary embedding of rows 0, 1, ... in fp64, by its definition as complex products."""
    cos, sin = rope.cos_sin[: x.shape[0]].double().unsqueeze(1).chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
