"""`TorchAttention`: paged attention in plain PyTorch.

Gathers a request's blocks and attends with the query heads of one KV head packed as rows, so
that K and V are read once however many query heads share them. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    CacheKind,
    KVLayout,
    KVTensor,
    Rope,
)
from quire_attn_torch.metadata import Buffer, Group, Grouping, StepMetadata, make_bias

_KINDS = (CacheKind.FULL, CacheKind.SLIDING_WINDOW)
_DTYPES = ("float32", "float16", "bfloat16")

_SCORE_ELEMENTS = 1 << 22
"""Scores held at a time where they are held at all: 16 MiB in fp32."""


class TorchAttention(AttentionBackend):
    """The reference backend: right for every feature of the contract, on any device.

    K and V are kept beside each other, `[num_blocks, num_kv_heads, block_size, 2, head_dim]`: gathering a
    block of one head is one contiguous copy for both, and each half of what is gathered is laid out for a
    batched product.
    """

    def __init__(self, init: AttentionInit) -> None:
        super().__init__(init)
        self._scratch = torch.empty(0)

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        """Refuses caches that are not K and V in a float dtype, and to be deterministic.

        Requests are padded to a common length and chunks attended as matrices: either changes the order
        in which a row's sums are taken.
        """
        if need.deterministic:
            return "is not deterministic: a row's rounding varies with its batch and its chunk"
        if need.cache.kind not in _KINDS:
            return f"keeps K and V, not {need.cache.kind.value} state"
        if need.cache.dtype not in _DTYPES:
            return f"stores K and V as {', '.join(_DTYPES)}, not as {need.cache.dtype}"
        if need.num_q_heads % need.cache.num_kv_heads:
            return f"{need.num_q_heads} query heads do not divide over {need.cache.num_kv_heads} KV heads"
        return None

    def kv_layout(self, num_blocks: int) -> KVLayout:
        """`kv`, `[num_blocks, num_kv_heads, block_size, 2, head_dim]`."""
        need = self.init.need
        shape = (num_blocks, need.cache.num_kv_heads, need.block_size, 2, need.cache.head_dim)
        return KVLayout({"kv": KVTensor(shape, need.cache.dtype)})

    def plan(self, batch: AttentionBatch) -> StepMetadata:
        """Index arithmetic, masks and grouping of the step."""
        need = self.init.need
        ratio = need.num_q_heads // need.cache.num_kv_heads
        metadata = StepMetadata(
            batch, need.block_size, need.cache.num_kv_heads, ratio, getattr(torch, need.dtype)
        )
        metadata.grouping(need.cache.window)
        return metadata

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kv: Mapping[str, torch.Tensor],
        metadata: StepMetadata,
        layer: AttentionLayer,
        rope: Rope | None = None,
    ) -> torch.Tensor:
        """Write K and V, then attend group by group."""
        if q.shape[0] == 0:
            return torch.empty_like(q)
        cache = kv["kv"]
        _write(cache, k, v, metadata)
        grouping = metadata.grouping(layer.window)
        if grouping.order is not None:
            q = q.index_select(0, grouping.order)
        if grouping.buffers is None:
            grouping.buffers = self._buffers(grouping, cache)
        blocks = cache.view(-1, grouping.buffers[0].rows.shape[1])
        parts = torch.split(q, [group.requests * group.rows for group in grouping.groups])
        outs = []
        for part, group, buffer in zip(parts, grouping.groups, grouping.buffers, strict=True):
            torch.index_select(blocks, 0, group.blocks, out=buffer.rows)
            attend = _attend_packed if group.packed else _attend_chunk
            outs.append(attend(part, buffer.k.to(q.dtype), buffer.v.to(q.dtype), group, layer))
        out = torch.cat(outs).view(q.shape)
        return out if grouping.restore is None else out.index_select(0, grouping.restore)

    def _buffers(self, grouping: Grouping, cache: torch.Tensor) -> tuple[Buffer, ...]:
        """Where each group's blocks are gathered, the same in every layer of the step.

        All groups share one piece of memory, one after the other, which thereby stays in the
        processor's cache. So what was gathered is valid until the next gathering.
        """
        _, kv_heads, block_size, _, head_dim = cache.shape
        width = block_size * 2 * head_dim
        size = max(group.blocks.shape[0] for group in grouping.groups) * width
        if self._scratch.numel() < size or self._scratch.dtype != cache.dtype:
            self._scratch = torch.empty(size, dtype=cache.dtype, device=cache.device)
        buffers = []
        for group in grouping.groups:
            rows = self._scratch[: group.blocks.shape[0] * width].view(-1, width)
            k, v = rows.view(group.requests, kv_heads, group.length, 2, head_dim).unbind(3)
            buffers.append(Buffer(rows, k, v))
        return tuple(buffers)


def _write(cache: torch.Tensor, k: torch.Tensor, v: torch.Tensor, metadata: StepMetadata) -> None:
    """Put the step's k and v, `[T, Hkv, D]`, where the plan says."""
    x = torch.stack((k, v), dim=2)  # [T, Hkv, 2, D]
    if metadata.written is not None:
        x = x.index_select(0, metadata.written)
    width = 2 * k.shape[-1]
    cache.view(-1, width).index_copy_(0, metadata.targets, x.view(-1, width).to(cache.dtype))


def _attend_packed(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: Group, layer: AttentionLayer
) -> torch.Tensor:
    """Several requests of few rows: q `[n * r, Hq, D]`, k and v `[n, Hkv, L, D]` -> `[n * r, Hkv, G, D]`.

    The query heads that share a KV head become rows beside each other: K and V are read once.
    """
    n, r, head_dim = group.requests, group.rows, layer.head_dim
    heads, ratio = layer.num_kv_heads, layer.num_q_heads // layer.num_kv_heads
    if r == 1:
        return _product(q.view(n, heads, ratio, head_dim), k, v, group.bias, layer)
    rows = q.view(n, r, heads, ratio, head_dim).permute(0, 2, 3, 1, 4)  # [n, Hkv, G, r, D]
    result = _product(rows.reshape(n, heads, ratio * r, head_dim), k, v, group.bias, layer)
    result = result.view(n, heads, ratio, r, head_dim).permute(0, 3, 1, 2, 4)
    return result.reshape(n * r, heads, ratio, head_dim)


def _attend_chunk(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: Group, layer: AttentionLayer
) -> torch.Tensor:
    """One request of many rows: q `[r, Hq, D]`, k and v `[1, Hkv, L, D]` -> `[r, Hkv, G, D]`.

    KV heads are the batch.
    """
    r, head_dim = group.rows, layer.head_dim
    heads, ratio = layer.num_kv_heads, layer.num_q_heads // layer.num_kv_heads
    rows = q.view(r, heads, ratio, head_dim).permute(1, 2, 0, 3)  # [Hkv, G, r, D]
    k, v = (one[0].unsqueeze(1).expand(heads, ratio, group.length, head_dim) for one in (k, v))
    if group.causal and layer.soft_cap is None:
        k, v = k[:, :, :r], v[:, :, :r]
        out = F.scaled_dot_product_attention(rows, k, v, is_causal=True, scale=layer.scale)
    else:
        slices = _slices(group, layer, q.dtype)
        out = torch.cat([_product(rows[:, :, part], k, v, bias, layer) for part, bias in slices], dim=2)
    return out.permute(2, 0, 1, 3)


def _slices(group: Group, layer: AttentionLayer, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """A chunk's rows in slices of bounded memory, each with its bias `[1, 1, r', L]`."""
    per_row = group.length * (1 if layer.soft_cap is None else layer.num_q_heads)
    step = max(1, _SCORE_ELEMENTS // per_row)
    for start in range(0, group.rows, step):
        part = slice(start, start + step)
        if group.bias is None:
            yield part, make_bias(group.row_positions[:, part], group.key_positions, layer.window, dtype)
        else:
            yield part, group.bias[:, :, part]


def _product(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, layer: AttentionLayer
) -> torch.Tensor:
    """q `[b, h, r, D]`, k and v `[b, h, L, D]`, bias `[b or 1, 1, r, L]` -> `[b, h, r, D]`."""
    assert bias is not None
    if layer.soft_cap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=layer.scale)
    scores = (q.float() * layer.scale) @ k.float().transpose(2, 3)  # [b, h, r, L]
    scores = torch.tanh(scores / layer.soft_cap) * layer.soft_cap + bias
    return (scores.softmax(-1) @ v.float()).to(q.dtype)
