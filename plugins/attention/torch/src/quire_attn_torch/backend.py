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
    AttentionLayer,
    AttentionNeed,
    CacheKind,
    KVLayout,
    KVTensor,
    Rope,
)
from quire_attn_torch.metadata import Group, StepMetadata, make_bias

_KINDS = (CacheKind.FULL, CacheKind.SLIDING_WINDOW)
_DTYPES = ("float32", "float16", "bfloat16")

_SCORE_ELEMENTS = 1 << 22
"""Scores held at a time where they are held at all: 16 MiB in fp32."""


class TorchAttention(AttentionBackend):
    """The reference backend: right for every feature of the contract, on any device.

    K and V are kept as `[num_blocks, num_kv_heads, block_size, head_dim]`: gathering a block of one
    head is one contiguous copy, and what is gathered is laid out for a batched product.
    """

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        """Refuses caches that are not K and V in a float dtype."""
        if need.cache.kind not in _KINDS:
            return f"keeps K and V, not {need.cache.kind.value} state"
        if need.cache.dtype not in _DTYPES:
            return f"stores K and V as {', '.join(_DTYPES)}, not as {need.cache.dtype}"
        if need.num_q_heads % need.cache.num_kv_heads:
            return f"{need.num_q_heads} query heads do not divide over {need.cache.num_kv_heads} KV heads"
        return None

    def kv_layout(self, num_blocks: int) -> KVLayout:
        """`k` and `v`, each `[num_blocks, num_kv_heads, block_size, head_dim]`."""
        need = self.init.need
        shape = (num_blocks, need.cache.num_kv_heads, need.block_size, need.cache.head_dim)
        tensor = KVTensor(shape, need.cache.dtype)
        return KVLayout({"k": tensor, "v": tensor})

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
        _write(kv["k"], k, metadata)
        _write(kv["v"], v, metadata)
        grouping = metadata.grouping(layer.window)
        if grouping.order is not None:
            q = q.index_select(0, grouping.order)
        outs = []
        start = 0
        for group in grouping.groups:
            count = group.requests * group.rows
            attend = _attend_packed if group.packed else _attend_chunk
            outs.append(attend(q[start : start + count], kv, group, layer))
            start += count
        out = outs[0] if len(outs) == 1 else torch.cat(outs)
        return out if grouping.restore is None else out.index_select(0, grouping.restore)


def _write(cache: torch.Tensor, x: torch.Tensor, metadata: StepMetadata) -> None:
    """Put the step's `[T, Hkv, D]` where the plan says."""
    if metadata.written is not None:
        x = x.index_select(0, metadata.written)
    head_dim = x.shape[-1]
    cache.view(-1, head_dim).index_copy_(0, metadata.targets, x.reshape(-1, head_dim).to(cache.dtype))


def _gather(cache: torch.Tensor, group: Group, dtype: torch.dtype) -> torch.Tensor:
    """A group's cache rows: `[n, Hkv, L, D]`, zero where no row may look."""
    _, kv_heads, block_size, head_dim = cache.shape
    rows = cache.view(-1, block_size * head_dim).index_select(0, group.blocks)
    if group.hidden is not None:
        # A zero weight does not silence NaN (0 * NaN is NaN), and stale slots may hold anything.
        rows.view(-1, head_dim).index_fill_(0, group.hidden, 0)
    return rows.to(dtype).view(group.requests, kv_heads, group.length, head_dim)


def _attend_packed(
    q: torch.Tensor, kv: Mapping[str, torch.Tensor], group: Group, layer: AttentionLayer
) -> torch.Tensor:
    """Several requests of few rows, `[n * r, Hq, D] -> [n * r, Hq, D]`.

    The query heads that share a KV head become rows beside each other: K and V are read once.
    """
    n, r, head_dim = group.requests, group.rows, layer.head_dim
    heads, ratio = layer.num_kv_heads, layer.num_q_heads // layer.num_kv_heads
    k = _gather(kv["k"], group, q.dtype)  # [n, Hkv, L, D]
    v = _gather(kv["v"], group, q.dtype)
    rows = q.view(n, r, heads, ratio, head_dim).permute(0, 2, 3, 1, 4)  # [n, Hkv, G, r, D]
    out = _product(rows.reshape(n, heads, ratio * r, head_dim), k, v, group.bias, layer)
    out = out.view(n, heads, ratio, r, head_dim)
    return out.permute(0, 3, 1, 2, 4).reshape(n * r, heads * ratio, head_dim)


def _attend_chunk(
    q: torch.Tensor, kv: Mapping[str, torch.Tensor], group: Group, layer: AttentionLayer
) -> torch.Tensor:
    """One request of many rows, `[r, Hq, D] -> [r, Hq, D]`; its KV heads are the batch."""
    r, head_dim = group.rows, layer.head_dim
    heads, ratio = layer.num_kv_heads, layer.num_q_heads // layer.num_kv_heads
    rows = q.view(r, heads, ratio, head_dim).permute(1, 2, 0, 3)  # [Hkv, G, r, D]
    k, v = (
        _gather(kv[name], group, q.dtype)[0].unsqueeze(1).expand(heads, ratio, group.length, head_dim)
        for name in ("k", "v")
    )
    if group.causal and layer.soft_cap is None:
        out = F.scaled_dot_product_attention(
            rows, k[:, :, :r], v[:, :, :r], is_causal=True, scale=layer.scale
        )
    else:
        parts = [
            _product(rows[:, :, part], k, v, bias, layer) for part, bias in _slices(group, layer, q.dtype)
        ]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return out.permute(2, 0, 1, 3).reshape(r, heads * ratio, head_dim)


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
