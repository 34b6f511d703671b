"""The Llama family: pre-norm decoder layers of rotary grouped-query attention and a gated MLP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from quire.contracts import ModelNeed, Weight, WeightMapping
from quire.layers import Build, DecoderLayer, GatedMLP, Step, finish, weights_of
from quire_models_llama.features import Features, unsupported


class SelfAttention(nn.Module):
    """Fused q, k, v projection; optional norm of q and k per head; paged attention; output projection."""

    def __init__(self, features: Features, build: Build, name: str, window: int | None) -> None:
        super().__init__()
        f = features
        q = build.q_heads(f.num_heads, f.head_dim)
        kv = build.kv_heads(f.num_kv_heads, f.head_dim)
        self.qkv_proj = build.linear(
            f"{name}.qkv_proj",
            f.hidden_size,
            {"q_proj": q, "k_proj": kv, "v_proj": kv},
            bias=f.qkv_bias,
            style="column",
        )
        self.q_norm = build.norm(f"{name}.q_norm", f.head_dim, f.norm_eps) if f.qk_norm else None
        self.k_norm = build.norm(f"{name}.k_norm", f.head_dim, f.norm_eps) if f.qk_norm else None
        self.attention = build.attention(
            f.num_heads, f.num_kv_heads, f.head_dim, rotary=build.rotary(f.head_dim), window=window
        )
        self.o_proj = build.linear(f"{name}.o_proj", q, f.hidden_size, bias=f.out_bias, style="row")
        self._head_dim = f.head_dim
        self._sizes = (self.attention.q_size, self.attention.kv_size, self.attention.kv_size)

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        """`[T, H] -> [T, H]`."""
        q, k, v = self.qkv_proj(x).split(self._sizes, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.unflatten(-1, (-1, self._head_dim)))  # [T, Hq, D]
            k = self.k_norm(k.unflatten(-1, (-1, self._head_dim)))  # [T, Hkv, D]
        out: torch.Tensor = self.o_proj(self.attention(q, k, v, positions, step))
        return out


class LlamaFamily(nn.Module):
    """A causal language model of the family; fulfils `quire.contracts.Model`."""

    mapping: ClassVar[WeightMapping] = WeightMapping(
        stacked={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")},
        # Written by early Llama conversions; tables are computed here.
        ignored=("rotary_emb.inv_freq",),
    )

    def __init__(self, config: Mapping[str, Any], build: Build) -> None:
        super().__init__()
        f = Features.read(config)
        self.embed_tokens = build.embedding("model.embed_tokens", f.vocab_size, f.hidden_size)
        self.layers = nn.ModuleList(
            _decoder_layer(f, build, f"model.layers.{index}", window)
            for index, window in enumerate(f.windows)
        )
        self.norm = build.norm("model.norm", f.hidden_size, f.norm_eps)
        self.lm_head = build.lm_head(
            "lm_head", f.vocab_size, f.hidden_size, tied_to=self.embed_tokens if f.tied else None
        )

    @classmethod
    def reject(cls, need: ModelNeed) -> str | None:
        """See `Model.reject`."""
        return unsupported(need.config)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[T]` int64 -> `[T, H]`."""
        out: torch.Tensor = self.embed_tokens(token_ids)
        return out

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        """`[T, H]` -> hidden states `[T, H]`, ready for the head."""
        residual = None
        for layer in self.layers:
            x, residual = layer(x, residual, positions, step)
        hidden: torch.Tensor = self.norm(x, residual)[0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[R, H] -> [R, V]`."""
        out: torch.Tensor = self.lm_head(hidden)
        return out

    def weights(self) -> Iterable[Weight]:
        """Everything to load."""
        return weights_of(self)

    def finish(self) -> None:
        """Repack what was loaded."""
        finish(self)


def _decoder_layer(f: Features, build: Build, name: str, window: int | None) -> DecoderLayer:
    return DecoderLayer(
        input_norm=build.norm(f"{name}.input_layernorm", f.hidden_size, f.norm_eps),
        mixer=SelfAttention(f, build, f"{name}.self_attn", window),
        post_norm=build.norm(f"{name}.post_attention_layernorm", f.hidden_size, f.norm_eps),
        mlp=GatedMLP(build, f"{name}.mlp", f.hidden_size, f.intermediate_size, bias=f.mlp_bias),
    )
