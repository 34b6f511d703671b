"""The Llama family: pre-norm decoder layers of rotary grouped-query attention and a gated MLP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from quire.contracts import ModelNeed, Weight, WeightMapping
from quire.layers import (
    Build,
    DecoderLayer,
    DecoderStack,
    GatedMLP,
    SelfAttention,
    Step,
    finish,
    weights_of,
)
from quire_models_llama.features import Features, unsupported


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
        layers = [
            _decoder_layer(f, build, f"model.layers.{index}", window)
            for index, window in enumerate(f.windows)
        ]
        self.layers = DecoderStack(build, layers)
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
        hidden: torch.Tensor = self.norm(*self.layers(x, positions, step))[0]
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
        build,
        input_norm=build.norm(f"{name}.input_layernorm", f.hidden_size, f.norm_eps),
        mixer=SelfAttention(
            build,
            f"{name}.self_attn",
            f.hidden_size,
            num_heads=f.num_heads,
            num_kv_heads=f.num_kv_heads,
            head_dim=f.head_dim,
            rotary=build.rotary(f.head_dim),
            qkv_bias=f.qkv_bias,
            out_bias=f.out_bias,
            qk_norm_eps=f.norm_eps if f.qk_norm else None,
            window=window,
        ),
        post_norm=build.norm(f"{name}.post_attention_layernorm", f.hidden_size, f.norm_eps),
        mlp=GatedMLP(build, f"{name}.mlp", f.hidden_size, f.intermediate_size, bias=f.mlp_bias),
    )
