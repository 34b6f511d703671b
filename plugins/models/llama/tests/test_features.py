"""What the family reads from config.json, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from quire.contracts import ModelNeed
from quire.errors import UnsupportedModelError
from quire_models_llama.features import Features
from quire_models_llama.model import LlamaFamily

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def _read(architecture: str = "Llama", **changes: Any) -> Features:
    return Features.read({**BASE, "architectures": [f"{architecture}ForCausalLM"], **changes})


def test_sizes_have_the_familys_defaults() -> None:
    features = _read()
    assert (features.num_kv_heads, features.head_dim, features.tied) == (4, 16, False)
    assert _read("Qwen3").head_dim == 128
    assert _read(head_dim=None).head_dim == 16
    assert _read(head_dim=24, num_key_value_heads=2).num_kv_heads == 2


def test_the_familys_architecture_counts_wherever_it_stands() -> None:
    config = {**BASE, "architectures": ["SomebodysQwen", "Qwen3ForCausalLM"]}
    assert Features.read(config).qk_norm
    assert not Features.read({**BASE, "architectures": None}).qk_norm


@pytest.mark.parametrize(
    ("architecture", "attention_bias", "qkv", "out", "qk_norm"),
    [
        ("Llama", False, False, False, False),
        ("Llama", True, True, True, False),
        ("Mistral", False, False, False, False),
        ("Qwen2", False, True, False, False),
        ("Qwen3", False, False, False, True),
        ("Qwen3", True, True, True, True),
    ],
)
def test_biases_and_norms(
    architecture: str, attention_bias: bool, qkv: bool, out: bool, qk_norm: bool
) -> None:
    features = _read(architecture, attention_bias=attention_bias)
    assert (features.qkv_bias, features.out_bias, features.qk_norm) == (qkv, out, qk_norm)


@pytest.mark.parametrize(
    ("architecture", "changes", "windows"),
    [
        ("Llama", {"sliding_window": 8}, (None,) * 4),
        ("Mistral", {"sliding_window": 8}, (8,) * 4),
        ("Mistral", {"sliding_window": None}, (None,) * 4),
        ("Mistral", {}, (4096,) * 4),
        ("Qwen2", {"sliding_window": 8, "max_window_layers": 1}, (None,) * 4),
        ("Qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, (None, 8, 8, 8)),
        ("Qwen2", {"sliding_window": 8, "use_sliding_window": True}, (None,) * 4),
        (
            "Qwen3",
            {
                "sliding_window": 8,
                "use_sliding_window": True,
                "max_window_layers": 0,
                "layer_types": ["full_attention", "sliding_attention"] * 2,
            },
            (None, 8, None, 8),
        ),
    ],
)
def test_windows(architecture: str, changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert _read(architecture, **changes).windows == windows


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu' is unknown; known: silu"),
        ({"pretraining_tp": 2}, "pretraining_tp 2"),
        ({"num_key_value_heads": 3}, "4 is not a multiple of num_key_value_heads 3"),
        ({"hidden_size": 66}, "66 is not a multiple of num_attention_heads 4"),
        ({"vocab_size": None}, "vocab_size as a positive integer, not None"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers as a positive integer"),
        ({"layer_types": ["linear_attention"] * 4}, "layer_types 'linear_attention' are unknown"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for 4 layers"),
        ({"rope_scaling": {"type": "su"}}, "Unknown rope type 'su'"),
    ],
)
def test_what_is_not_served_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    config = {**BASE, **changes}
    need = ModelNeed(device="cpu", dtype="float32", architecture="LlamaForCausalLM", config=config)
    assert reason in (LlamaFamily.reject(need) or "")
    with pytest.raises(UnsupportedModelError) as caught:
        Features.read(config)
    assert reason in str(caught.value)


def test_what_is_served_is_not_refused() -> None:
    need = ModelNeed(device="cpu", dtype="float32", architecture="LlamaForCausalLM", config=BASE)
    assert LlamaFamily.reject(need) is None
