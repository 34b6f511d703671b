"""What a config.json says about a member of the family, in one form.

Knows the relatives' names for things and their defaults; builds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.errors import UnsupportedModelError
from quire.layers import RopeParameters

ACTIVATIONS = frozenset({"silu"})
ARCHITECTURES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One architecture of the family.

    Attributes:
        hidden_size, intermediate_size, num_layers, vocab_size, num_heads, num_kv_heads, head_dim: sizes.
        norm_eps: epsilon of every RMSNorm.
        qkv_bias, out_bias, mlp_bias: which projections have a bias.
        qk_norm: q and k are normalised per head before they are rotated (Qwen3).
        tied: the head uses the embedding's weights.
        windows: per layer its sliding window in tokens, None for full attention.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    windows: tuple[int | None, ...]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Features:
        """From config.json.

        Raises:
            UnsupportedModelError: a variant that is not implemented, or a size is missing.
        """
        reason = unsupported(config)
        if reason is not None:
            raise UnsupportedModelError(f"This model is not served: {reason}.")
        architecture = _architecture(config)
        attention_bias = bool(config.get("attention_bias", False))
        is_qwen2 = architecture == "Qwen2ForCausalLM"
        num_heads = int(config["num_attention_heads"])
        return cls(
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            vocab_size=int(config["vocab_size"]),
            num_heads=num_heads,
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=_head_dim(config),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            # Qwen2 has its biases by definition, the others by a setting that Mistral does not know.
            qkv_bias=is_qwen2 or attention_bias,
            out_bias=attention_bias and not is_qwen2,
            mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=architecture == "Qwen3ForCausalLM",
            tied=bool(config.get("tie_word_embeddings", False)),
            windows=_windows(config),
        )


def unsupported(config: Mapping[str, Any]) -> str | None:
    """The reason this variant is not implemented, or None."""
    for key in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "vocab_size",
        "num_attention_heads",
    ):
        if not isinstance(config.get(key), int) or config[key] < 1:
            return f"config.json must give {key} as a positive integer, not {config.get(key)!r}"
    activation = config.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        return f"hidden_act {activation!r} is unknown; known: {', '.join(sorted(ACTIVATIONS))}"
    if (config.get("pretraining_tp") or 1) != 1:
        return (
            f"pretraining_tp {config['pretraining_tp']} asks for sliced matrix products; "
            "only 1 is implemented (set it by hf_overrides if exact slicing does not matter)"
        )
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads")
    if kv_heads and heads % kv_heads:
        return f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
    if not config.get("head_dim") and config["hidden_size"] % heads:
        return f"hidden_size {config['hidden_size']} is not a multiple of num_attention_heads {heads}"
    types = config.get("layer_types")
    if types:
        unknown = sorted(set(types) - {"full_attention", "sliding_attention"})
        if unknown:
            names = ", ".join(map(repr, unknown))
            return f"layer_types {names} are unknown; known: 'full_attention', 'sliding_attention'"
        if len(types) != config["num_hidden_layers"]:
            return f"layer_types has {len(types)} entries for {config['num_hidden_layers']} layers"
    try:
        RopeParameters.read(config, _head_dim(config))
    except UnsupportedModelError as error:
        return str(error).rstrip(".")
    return None


def _architecture(config: Mapping[str, Any]) -> str:
    """The first architecture the checkpoint names that is of the family."""
    named = config.get("architectures") or ()
    return next((name for name in named if name in ARCHITECTURES), "LlamaForCausalLM")


def _head_dim(config: Mapping[str, Any]) -> int:
    if config.get("head_dim"):
        return int(config["head_dim"])
    # transformers' defaults, in force when the key is absent.
    if _architecture(config) == "Qwen3ForCausalLM":
        return 128
    return int(config["hidden_size"]) // int(config["num_attention_heads"])


def _windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Each layer's window.

    Mistral slides in every layer. Qwen slides only if `use_sliding_window` says so, and then in the
    layers from `max_window_layers` on, or those that `layer_types` names. Llama never slides.
    """
    num_layers = int(config["num_hidden_layers"])
    architecture = _architecture(config)
    # transformers' default, in force when the key is absent; null switches the window off.
    window = config.get("sliding_window", 4096)
    if architecture == "MistralForCausalLM":
        slides = [True] * num_layers
    elif architecture.startswith("Qwen") and config.get("use_sliding_window", False):
        types = config.get("layer_types")
        first = int(config.get("max_window_layers", 28))
        slides = (
            [kind == "sliding_attention" for kind in types]
            if types
            else [index >= first for index in range(num_layers)]
        )
    else:
        slides = [False] * num_layers
    return tuple(int(window) if window and sliding else None for sliding in slides)
