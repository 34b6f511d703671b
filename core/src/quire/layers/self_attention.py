"""Rotary grouped-query self-attention with its projections, as most decoder layers have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quire.contracts import AttentionParts
from quire.layers.rotary import RotaryEmbedding
from quire.layers.step import Step

if TYPE_CHECKING:
    from quire.layers.build import Build


class SelfAttention(nn.Module):
    """Fused q, k, v projection; optional norm of q and k per head; paged attention; output projection."""

    def __init__(
        self,
        build: Build,
        name: str,
        hidden_size: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rotary: RotaryEmbedding | None = None,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm_eps: float | None = None,
        window: int | None = None,
        in_features: int | None = None,
    ) -> None:
        """Build the layer's parts.

        Args:
            build: makes them.
            name: module path, e.g. "model.layers.0.self_attn".
            hidden_size: H.
            num_heads, num_kv_heads, head_dim: heads of the whole model.
            rotary: rotates q and k; None for no positions.
            qkv_bias, out_bias: whether the architecture has these biases.
            qk_norm_eps: epsilon of a norm of q and of k over each head's elements; None for no norms.
            window: see `AttentionLayer`.
            in_features: width of what it reads, if that is not H.
        """
        super().__init__()
        q = build.q_heads(num_heads, head_dim)
        kv = build.kv_heads(num_kv_heads, head_dim)
        self.qkv_proj = build.linear(
            f"{name}.qkv_proj",
            hidden_size if in_features is None else in_features,
            {"q_proj": q, "k_proj": kv, "v_proj": kv},
            bias=qkv_bias,
            style="column",
        )
        self.q_norm = self.k_norm = None
        if qk_norm_eps is not None:
            self.q_norm = build.norm(f"{name}.q_norm", head_dim, qk_norm_eps)
            self.k_norm = build.norm(f"{name}.k_norm", head_dim, qk_norm_eps)
        self.attention = build.attention(num_heads, num_kv_heads, head_dim, rotary=rotary, window=window)
        self.o_proj = build.linear(f"{name}.o_proj", q, hidden_size, bias=out_bias, style="row")
        self._head_dim = head_dim
        self._sizes = (self.attention.q_size, self.attention.kv_size, self.attention.kv_size)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        """`[T, in_features] -> [T, H]`."""
        q, k, v = self.qkv_proj(x).split(self._sizes, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.unflatten(-1, (-1, self._head_dim)))  # [T, Hq, D]
            k = self.k_norm(k.unflatten(-1, (-1, self._head_dim)))  # [T, Hkv, D]
        out: torch.Tensor = self.o_proj(self.attention(q, k, v, positions, step))
        return out

    def parts(self) -> AttentionParts | None:
        """What kernels need to fuse it; None if a projection is not to be described."""
        qkv, out, attention = self.qkv_proj.parts(), self.o_proj.parts(), self.attention
        if qkv is None or out is None:
            return None
        return AttentionParts(
            qkv=qkv,
            q_norm=None if self.q_norm is None else self.q_norm.parts(),
            k_norm=None if self.k_norm is None else self.k_norm.parts(),
            layer=attention.layer,
            group=attention.group,
            rope=attention.rope,
            backend=attention.backend,
            native=attention.backend.native(attention.layer),
            out=out,
        )
