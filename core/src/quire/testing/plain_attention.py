"""`PlainAttention`: the attention contract by its words, for suites that need some backend and no speed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from quire.contracts import AttentionBackend, AttentionBatch, AttentionLayer, KVLayout, KVTensor, Rope


class PlainAttention(AttentionBackend):
    """Request by request, dense, in fp32; K and V are kept as `[num_blocks, block_size, heads, head_dim]`."""

    def kv_layout(self, num_blocks: int) -> KVLayout:
        need = self.init.need
        shape = (num_blocks, need.block_size, need.cache.num_kv_heads, need.cache.head_dim)
        return KVLayout({name: KVTensor(shape, need.cache.dtype) for name in ("k", "v")})

    def plan(self, batch: AttentionBatch) -> AttentionBatch:
        return batch

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kv: Mapping[str, torch.Tensor],
        metadata: AttentionBatch,
        layer: AttentionLayer,
        rope: Rope | None = None,
    ) -> torch.Tensor:
        kept = metadata.slot_mapping >= 0
        for name, new in (("k", k), ("v", v)):
            cache = kv[name].flatten(0, 1)  # [slots, Hkv, D]
            cache[metadata.slot_mapping[kept]] = new[kept].to(cache.dtype)
        out = torch.empty_like(q)
        start = 0
        for request, rows in enumerate(metadata.query_lens_host):
            length = metadata.seq_lens_host[request]
            part = slice(start, start + rows)
            out[part] = _attend(q[part], kv, metadata.block_table[request], length, layer)
            start += rows
        return out


def _attend(
    q: torch.Tensor, kv: Mapping[str, torch.Tensor], table: torch.Tensor, length: int, layer: AttentionLayer
) -> torch.Tensor:
    """The last rows of a request of `length` tokens, `[r, Hq, D]`."""
    ratio = layer.num_q_heads // layer.num_kv_heads
    k, v = (
        kv[name][table.long()].flatten(0, 1)[:length].float().repeat_interleave(ratio, dim=1)  # [L, Hq, D]
        for name in ("k", "v")
    )
    scores = torch.einsum("rhd,lhd->hrl", q.float(), k) * layer.scale
    if layer.soft_cap is not None:
        scores = torch.tanh(scores / layer.soft_cap) * layer.soft_cap
    positions = torch.arange(length, device=q.device)
    distance = positions[length - q.shape[0] :, None] - positions
    unseen = distance < 0
    if layer.window is not None:
        unseen |= distance >= layer.window
    weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
    return torch.einsum("hrl,lhd->rhd", weights, v).to(q.dtype)
