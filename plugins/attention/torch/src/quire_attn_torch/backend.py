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
        return StepMetadata(batch, self.init.need.block_size, self.init.need.cache.num_kv_heads)

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
            outs.append(_attend(q[start : start + count], kv, group, layer))
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
    rows = F.embedding(group.blocks, cache.view(-1, block_size * head_dim)).to(dtype)
    # A zero weight does not silence NaN (0 * NaN is NaN), and stale slots may hold anything.
    rows.view(-1, head_dim).index_fill_(0, group.hidden, 0)
    return rows.view(group.requests, kv_heads, group.length, head_dim)


def _attend(
    q: torch.Tensor, kv: Mapping[str, torch.Tensor], group: Group, layer: AttentionLayer
) -> torch.Tensor:
    """`[n * r, Hq, D] -> [n * r, Hq, D]` for one group."""
    n, r = group.requests, group.rows
    heads, ratio, head_dim = layer.num_kv_heads, layer.num_q_heads // layer.num_kv_heads, layer.head_dim
    k = _gather(kv["k"], group, q.dtype)  # [n, Hkv, L, D]
    v = _gather(kv["v"], group, q.dtype)
    packed = q.view(n, r, heads, ratio, head_dim).permute(0, 2, 3, 1, 4)  # [n, Hkv, G, r, D]
    if group.causal and layer.soft_cap is None:
        shared = (heads, ratio, group.length, head_dim)
        out = F.scaled_dot_product_attention(
            packed[0],
            k[0].unsqueeze(1).expand(shared)[:, :, :r],
            v[0].unsqueeze(1).expand(shared)[:, :, :r],
            is_causal=True,
            scale=layer.scale,
        )  # [Hkv, G, r, D]
        return out.permute(2, 0, 1, 3).reshape(r, heads * ratio, head_dim)
    parts = [
        _product(packed[:, :, :, rows], k, v, bias, layer) for rows, bias in _slices(group, layer)
    ]  # each [n, Hkv, G, r', D]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=3)
    return out.permute(0, 3, 1, 2, 4).reshape(n * r, heads * ratio, head_dim)


def _slices(group: Group, layer: AttentionLayer) -> Iterator[tuple[slice, torch.Tensor]]:
    """The group's rows in slices of bounded memory, each with its bias `[n, 1, r', L]`."""
    per_row = group.requests * group.length * (1 if layer.soft_cap is None else layer.num_q_heads)
    step = max(1, _SCORE_ELEMENTS // per_row)
    for start in range(0, group.rows, step):
        rows = slice(start, start + step)
        if group.bias is None:
            yield rows, make_bias(group.row_positions[:, rows], group.key_positions, layer.window)
        else:
            yield rows, group.bias[:, :, rows]


def _product(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, layer: AttentionLayer
) -> torch.Tensor:
    """q `[n, Hkv, G, r, D]`, k and v `[n, Hkv, L, D]`, bias `[n, 1, r, L]` -> `[n, Hkv, G, r, D]`."""
    n, heads, ratio, r, head_dim = q.shape
    rows = q.reshape(n, heads, ratio * r, head_dim)
    if r > 1:
        bias = bias.repeat(1, 1, ratio, 1)  # row g * r + i is row i of query head g
    if layer.soft_cap is None:
        out = F.scaled_dot_product_attention(rows, k, v, attn_mask=bias.to(q.dtype), scale=layer.scale)
    else:
        scores = (rows.float() * layer.scale) @ k.float().transpose(2, 3)  # [n, Hkv, G * r, L]
        scores = torch.tanh(scores / layer.soft_cap) * layer.soft_cap + bias
        out = (scores.softmax(-1) @ v.float()).to(q.dtype)
    return out.view(n, heads, ratio, r, head_dim)
