"""`PlainAttention`: the attention contract by its words, for suites that need some backend and no speed.

Row by row, so that nothing of a row's arithmetic depends on its step: it serves a deterministic need.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from quire.contracts import AttentionBackend, AttentionBatch, AttentionLayer, KVLayout, KVTensor, Rope


class PlainAttention(AttentionBackend):
    """Row by row, dense, in fp32; K and V are kept as `[num_blocks, block_size, heads, head_dim]`."""

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
            k_all, v_all = _gather(kv, metadata.block_table[request], length, layer)
            for row in range(rows):
                seen = length - rows + row + 1
                out[start + row] = _attend(q[start + row], k_all[:seen], v_all[:seen], layer)
            start += rows
        return out


def _gather(
    kv: Mapping[str, torch.Tensor], table: torch.Tensor, length: int, layer: AttentionLayer
) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V of a request of `length` tokens, for every query head: `[L, Hq, D]` fp32 each."""
    ratio = layer.num_q_heads // layer.num_kv_heads
    k, v = (
        kv[name][table.long()].flatten(0, 1)[:length].float().repeat_interleave(ratio, dim=1)
        for name in ("k", "v")
    )
    return k, v


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: AttentionLayer) -> torch.Tensor:
    """A row `[Hq, D]` at the last of the positions of k and v `[L, Hq, D]`."""
    # The copy is aligned as any row's: BLAS may sum in another order where memory is not.
    scores = torch.einsum("hd,lhd->hl", q.float().clone(), k) * layer.scale
    if layer.soft_cap is not None:
        scores = torch.tanh(scores / layer.soft_cap) * layer.soft_cap
    if layer.window is not None:
        scores[:, : -layer.window] = float("-inf")
    return torch.einsum("hl,lhd->hd", scores.softmax(-1), v).to(q.dtype)
