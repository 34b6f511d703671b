"""Random EAGLE-3 heads, and what they say by plain PyTorch: a whole sequence at once, without a cache."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from quire.testing.model import Reference, save_random_checkpoint

from .conftest import FAMILIES, VOCAB, save_byte_tokenizer

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Target:
    """Sizes of a model that a head is for."""

    vocab_size: int
    hidden_size: int


@dataclass(slots=True)
class ReferenceHead:
    """A head on disk, and the same computed here.

    Attributes:
        directory: its checkpoint.
        config: its config.json.
        tensors: its tensors, those of its layer under `midlayer.`.
        target: the model that it proposes to.
        depths: the states of that which it reads.
    """

    directory: Path
    config: dict[str, Any]
    tensors: Tensors
    target: Reference
    depths: tuple[int, ...]
    _features: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)

    @torch.inference_mode()
    def features(self, tokens: list[int]) -> torch.Tensor:
        """`[T, H]`, of the served model's own states."""
        key = tuple(tokens)
        if key not in self._features:
            found = hidden_states(self.target, tokens)
            states = [found[depth] for depth in self.depths]
            t = self.tensors
            if self.config.get("fc_norm"):
                states = [self._norm(one, t[f"fc_norm.{at}.weight"]) for at, one in enumerate(states)]
            joined = torch.cat(states, -1)
            if self.config.get("norm_before_fc"):
                joined = self._norm(joined, t["input_norm.weight"])
            self._features[key] = joined @ t["fc.weight"].T
        return self._features[key]

    @torch.inference_mode()
    def logits(self, tokens: list[int], known: int) -> torch.Tensor:
        """`[V]`: what follows `tokens`, of which the last `len(tokens) - known` were proposed."""
        t = self.tensors
        table = t.get("embed_tokens.weight", self.target.model.get_input_embeddings().weight)
        features = self.features(tokens[:known])[: known - 1]
        for end in range(known, len(tokens) + 1):
            out = self._layer(table[tokens[1:end]], features)[-1:]
            normed = self._norm(out, t["norm.weight"])
            features = torch.cat((features, normed if self.config.get("norm_output") else out))
        normed = normed[0]
        if "lm_head.weight" not in t and self.config.get("tie_word_embeddings"):
            tied: torch.Tensor = normed @ table.T
            return tied
        if "lm_head.weight" not in t:
            own: torch.Tensor = normed @ self.target.model.lm_head.weight.T
            return own
        logits = normed @ t["lm_head.weight"].T
        found = torch.full((VOCAB,), -torch.inf)
        ids = torch.arange(len(logits)) + t.get("d2t", torch.zeros(len(logits), dtype=torch.int64))
        found[ids] = logits
        return found

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        eps: float = self.config["rms_norm_eps"]
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    def _layer(self, embedded: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        t = {name.removeprefix("midlayer."): tensor for name, tensor in self.tensors.items()}
        token = self._norm(embedded, t["input_layernorm.weight"])
        normed = self._norm(features, t["hidden_norm.weight"])
        residual = normed if self.config.get("norm_before_residual") else features
        both = torch.cat((token, normed), -1)  # [T, 2H]
        rows, size = len(both), int(self.config["head_dim"])
        q, k, v = (
            (both @ t[f"self_attn.{name}_proj.weight"].T).view(rows, -1, size).transpose(0, 1)
            for name in "qkv"
        )
        angles = torch.arange(rows)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

        def turned(x: torch.Tensor) -> torch.Tensor:
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat((-second, first), -1) * sin

        group = len(q) // len(k)
        k, v = turned(k).repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        scores = turned(q) @ k.transpose(1, 2) / math.sqrt(size)
        back = torch.arange(rows)[:, None] - torch.arange(rows)
        window = self.config["sliding_window"] if "layer_types" in self.config else rows
        scores = scores.masked_fill((back < 0) | (back >= window), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(rows, -1)
        residual = residual + mixed @ t["self_attn.o_proj.weight"].T
        x = self._norm(residual, t["post_attention_layernorm.weight"])
        gate, up = x @ t["mlp.gate_proj.weight"].T, x @ t["mlp.up_proj.weight"].T
        return residual + (torch.nn.functional.silu(gate) * up) @ t["mlp.down_proj.weight"].T


def with_head(head: ReferenceHead, ahead: int = 3) -> dict[str, Any]:
    return {
        "speculative_config": {
            "method": "eagle3",
            "model": str(head.directory),
            "num_speculative_tokens": ahead,
        }
    }


@torch.inference_mode()
def hidden_states(target: Reference, tokens: list[int]) -> list[torch.Tensor]:
    """`[T, H]` each: what enters each layer, and what leaves the last one before it is normalised."""
    left: list[torch.Tensor] = []
    hook = target.model.model.norm.register_forward_pre_hook(lambda _, inputs: left.append(inputs[0]))
    try:
        out = target.model(torch.tensor([tokens]), use_cache=False, output_hidden_states=True)
    finally:
        hook.remove()
    return [state[0] for state in (*out.hidden_states[:-1], left[0])]


def random_tensors(
    target: Target,
    hidden: int,
    heads: int,
    kv_heads: int,
    draft_vocab: int,
    depths: int,
    *,
    embedding: bool,
) -> Tensors:
    """A head's tensors, its layer under `midlayer.`; all random, norms as well."""
    generator, size = torch.Generator().manual_seed(7), 16
    vocab = target.vocab_size

    def matrix(out: int, inp: int) -> torch.Tensor:
        return torch.randn(out, inp, generator=generator) * (1.5 / math.sqrt(inp))

    tensors = {
        "fc.weight": matrix(hidden, depths * target.hidden_size),
        "midlayer.self_attn.q_proj.weight": matrix(heads * size, 2 * hidden),
        "midlayer.self_attn.k_proj.weight": matrix(kv_heads * size, 2 * hidden),
        "midlayer.self_attn.v_proj.weight": matrix(kv_heads * size, 2 * hidden),
        "midlayer.self_attn.o_proj.weight": matrix(hidden, heads * size),
        "midlayer.mlp.gate_proj.weight": matrix(80, hidden),
        "midlayer.mlp.up_proj.weight": matrix(80, hidden),
        "midlayer.mlp.down_proj.weight": matrix(hidden, 80),
        "lm_head.weight": matrix(draft_vocab, hidden),
    }
    for name in (
        "midlayer.input_layernorm",
        "midlayer.hidden_norm",
        "midlayer.post_attention_layernorm",
        "norm",
    ):
        tensors[f"{name}.weight"] = 1 + 0.2 * torch.randn(hidden, generator=generator)
    if embedding:
        tensors["embed_tokens.weight"] = matrix(vocab, hidden)
    if draft_vocab < vocab:
        ids = torch.randperm(vocab, generator=generator)[:draft_vocab].sort().values
        tensors["d2t"] = ids - torch.arange(draft_vocab)
        tensors["t2d"] = torch.isin(torch.arange(vocab), ids)
    return tensors


def state_norms(size: int, depths: int, settings: dict[str, Any]) -> Tensors:
    """Of states of this size, as the settings of a head want them."""
    generator = torch.Generator().manual_seed(8)
    sizes: dict[str, int] = {}
    if settings.get("norm_before_fc"):
        sizes["input_norm"] = depths * size
    if settings.get("fc_norm"):
        sizes |= {f"fc_norm.{place}": size for place in range(depths)}
    return {
        f"{name}.weight": 1 + 0.2 * torch.randn(width, generator=generator) for name, width in sizes.items()
    }


def save_head(
    directory: Path, target: Reference, *, depths: tuple[int, ...] = (2, 1, 0), **form: Any
) -> ReferenceHead:
    """Write a head to a model as it would be published.

    Args:
        directory: where to.
        target: the model.
        depths: what `form` says that it reads; the default is what a model of three layers gives.
        form: see `write_head`.
    """
    sizes = Target(target.config["vocab_size"], target.config["hidden_size"])
    config, tensors = write_head(directory, sizes, len(depths), **form)
    flat = {**config.get("transformer_layer_config", {}), **config.get("eagle_config", {}), **config}
    return ReferenceHead(directory, flat, tensors, target, depths)


def write_head(
    directory: Path,
    target: Target,
    depths: int = 3,
    *,
    hidden: int = 56,
    heads: int = 4,
    kv_heads: int = 2,
    draft_vocab: int = 200,
    embedding: bool = False,
    prefix: str = "midlayer.",
    file: str = "model.safetensors",
    tensors: Tensors | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], Tensors]:
    """Write a head; its config.json and its tensors.

    Args:
        directory: where to.
        target: what it is for.
        depths: how many states it reads.
        hidden, heads, kv_heads, draft_vocab, embedding: its sizes.
        prefix: of its layer's tensors.
        file: that holds them.
        tensors: its tensors; random if None.
        settings: more of its config.json.
    """
    if tensors is None:
        tensors = random_tensors(target, hidden, heads, kv_heads, draft_vocab, depths, embedding=embedding)
        tensors |= state_norms(target.hidden_size, depths, {**settings.get("eagle_config", {}), **settings})
    if settings.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    config = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 80,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64,
        "vocab_size": target.vocab_size,
        "draft_vocab_size": draft_vocab,
        **settings,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    stored = {name.replace("midlayer.", prefix): tensor.contiguous() for name, tensor in tensors.items()}
    if file.endswith(".bin"):
        torch.save(stored, directory / file)
    else:
        save_file(stored, directory / file, metadata={"format": "pt"})
    return config, tensors


def save_bigrams(directory: Path) -> tuple[Reference, ReferenceHead]:
    """A model that mostly says f(token), and a head that mostly knows f(f(token)) of the token before.

    Each LM head is an associative memory (Kohonen 1972) of normalised embeddings; the layers hardly matter.
    """
    target = save_random_checkpoint(directory / "target", FAMILIES["llama"])
    follows = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        table = target.model.get_input_embeddings().weight
        normed = table * torch.rsqrt(table.pow(2).mean(-1, keepdim=True))
        for name, parameter in target.model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.mul_(0.02)
        target.model.lm_head.weight.zero_().index_copy_(0, follows, 0.12 * normed)
        target.model.model.norm.weight.fill_(1)
    target.model.save_pretrained(directory / "target", max_shard_size="100KB")
    save_byte_tokenizer(directory / "target")
    tensors = random_tensors(Target(VOCAB, 56), 56, 4, 2, VOCAB, 1, embedding=False)
    tensors["fc.weight"] = torch.eye(56)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"midlayer.{name}.weight"] *= 0.02
    memory = torch.zeros(VOCAB, 56).index_copy_(0, follows[follows], 0.12 * normed.detach())
    tensors |= {"lm_head.weight": memory, "norm.weight": torch.ones(56)}
    head = save_head(
        directory / "head",
        target,
        draft_vocab=VOCAB,
        depths=(0,),
        tensors=tensors,
        eagle_aux_hidden_state_layer_ids=[0],
    )
    return target, head
