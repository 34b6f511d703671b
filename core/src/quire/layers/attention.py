"""One attention layer: rotary embedding, then the KV group's backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quire.contracts import AttentionBackend, AttentionLayer, Rope
from quire.layers.rotary import RotaryEmbedding
from quire.layers.step import Step

if TYPE_CHECKING:
    from quire.ops import Kernels


class Attention(nn.Module):
    """Causal attention over the paged cache.

    Attributes:
        layer: its constants; head counts are this worker's.
        group: its KV group.
        backend: that group's.
        rope: rotates q and k; None for no positions.
        q_size, kv_size: widths of this worker's part of q and of k (and v), for splitting a fused projection.
    """

    def __init__(
        self,
        layer: AttentionLayer,
        group: int,
        backend: AttentionBackend,
        *,
        kernels: Kernels,
        rotary: RotaryEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.group = group
        self.q_size = layer.num_q_heads * layer.head_dim
        self.kv_size = layer.num_kv_heads * layer.head_dim
        self.backend = backend
        self._kernels = kernels
        self.rope = None if rotary is None else Rope(rotary.cos_sin, rotary.interleaved)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """Attend.

        Args:
            q: `[T, q_size]` or `[T, num_q_heads, head_dim]`.
            k, v: `[T, kv_size]` or `[T, num_kv_heads, head_dim]`.
            positions: `[T]` int64.
            step: this step's metadata and KV tensors.

        Returns:
            `[T, q_size]`.
        """
        layer = self.layer
        q = q.reshape(-1, layer.num_q_heads, layer.head_dim)
        k = k.reshape(-1, layer.num_kv_heads, layer.head_dim)
        v = v.reshape(-1, layer.num_kv_heads, layer.head_dim)
        rope = None
        if self.rope is not None:
            if self.backend.applies_rotary:
                rope = self.rope
            else:
                q, k = self._kernels.rotary(
                    q, k, self.rope.cos_sin, positions, interleaved=self.rope.interleaved
                )
        out = self.backend.forward(
            q, k, v, step.kv[layer.index], step.metadata[self.group], layer, rope
        )  # [T, Hq, D]
        return out.reshape(-1, self.q_size)
