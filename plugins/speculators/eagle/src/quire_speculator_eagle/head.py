"""The network of an EAGLE-3 head (https://arxiv.org/abs/2503.01840): a decoder layer over token and feature.

Its attention reads the normalised embedding and the normalised feature beside one another; the feature is its
residual, too. What leaves the layer is the feature of the next row, in most heads before it is normalised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from quire.contracts import Model, ModelNeed, Weight, WeightMapping
from quire.layers import Build, GatedMLP, SelfAttention, Step, finish, weights_of
from quire_speculator_eagle.layout import KEY, MAPPING, Layout
from quire_speculator_eagle.vocabulary import DraftVocabulary

__all__ = ["Eagle3Head"]

_SIZES = ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")


class Eagle3Head(nn.Module):
    """Fulfils `quire.contracts.HeadModel`."""

    mapping: ClassVar[WeightMapping] = MAPPING

    def __init__(self, config: Mapping[str, Any], build: Build) -> None:
        super().__init__()
        layout = Layout.read(config)
        hidden, vocab, heads = (
            int(config[key]) for key in ("hidden_size", "vocab_size", "num_attention_heads")
        )
        eps, bias = float(config.get("rms_norm_eps", 1e-6)), bool(config.get("attention_bias", False))
        head_dim = int(config.get("head_dim") or hidden // heads)
        self.depths, self.feature_size = layout.depths, hidden
        self._norm_before_residual = layout.norm_before_residual
        self._served: list[Model] = []  # in a list, so that it is no part of this one
        self.embed_tokens = build.embedding("embed_tokens", vocab, hidden) if layout.has_embedding else None
        each, states = layout.target_hidden_size, len(layout.depths)
        self.state_norm = build.norm("input_norm", states * each, eps) if layout.norm_before_fc else None
        self.state_norms = nn.ModuleList(
            build.norm(f"fc_norm.{place}", each, eps) for place in range(states if layout.fc_norm else 0)
        )
        self.fc = build.linear("fc", states * each, hidden)
        self.input_norm = build.norm("midlayer.input_layernorm", hidden, eps)
        self.hidden_norm = build.norm("midlayer.hidden_norm", hidden, eps)
        self.attention = SelfAttention(
            build,
            "midlayer.self_attn",
            hidden,
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            rotary=build.rotary(head_dim),
            qkv_bias=bias,
            out_bias=bias,
            window=layout.window,
            in_features=2 * hidden,
        )
        self.post_norm = build.norm("midlayer.post_attention_layernorm", hidden, eps)
        self.mlp = GatedMLP(
            build,
            "midlayer.mlp",
            hidden,
            int(config["intermediate_size"]),
            activation=str(config.get("hidden_act", "silu")),
            bias=bool(config.get("mlp_bias", False)),
        )
        self.norm = build.norm("norm", hidden, eps)
        self._norm_output = layout.norm_output
        self.lm_head = None
        if layout.has_head:
            table = self.embed_tokens if layout.tied else None
            self.lm_head = build.lm_head("lm_head", layout.draft_vocab_size, hidden, tied_to=table)
        self.vocabulary = DraftVocabulary(layout, build.device)

    @classmethod
    def reject(cls, need: ModelNeed) -> str | None:
        """See `Model.reject`."""
        if KEY not in need.config:
            return (
                "an EAGLE-3 head only proposes to another model: name it as 'model' in speculative_config, "
                "with the method 'eagle'"
            )
        for key in _SIZES:
            value = need.config.get(key)
            if not isinstance(value, int) or value < 1:
                return f"the head's config.json must give {key} as a positive integer, not {value!r}"
        return None

    def adopt(self, served: Model) -> None:
        """See `HeadModel.adopt`."""
        self._served = [served]

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[T]` int64 -> `[T, H]`."""
        if self.embed_tokens is None:
            return self._served[0].embed(token_ids)
        out: torch.Tensor = self.embed_tokens(token_ids)
        return out

    def fuse(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `HeadModel.fuse`."""
        if self.state_norms:
            states = [norm(state) for norm, state in zip(self.state_norms, states, strict=True)]
        joined = torch.cat(list(states), dim=-1)
        out: torch.Tensor = self.fc(joined if self.state_norm is None else self.state_norm(joined))
        return out

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        """`[2, T, H]`, embeddings and features -> features of the next rows `[T, H]`."""
        token, feature = x
        normed = self.hidden_norm(feature)
        residual = normed if self._norm_before_residual else feature
        both = torch.cat((self.input_norm(token), normed), dim=-1)  # [T, 2H]
        mixed, residual = self.post_norm(self.attention(both, positions, step), residual)
        out: torch.Tensor = self.mlp(mixed) + residual
        if self._norm_output:
            out = self.norm(out)
        return out

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[R, H] -> [R, V]`, -inf for tokens that the head does not propose."""
        normed = hidden if self._norm_output else self.norm(hidden)
        if self.lm_head is None:
            return self._served[0].logits(normed)
        return self.vocabulary.spread(self.lm_head(normed))

    def weights(self) -> Iterable[Weight]:
        """Everything to load."""
        return weights_of(self)

    def finish(self) -> None:
        """Repack what was loaded."""
        finish(self)
