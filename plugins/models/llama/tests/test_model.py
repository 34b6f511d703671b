"""The family against transformers: one suite, one tiny config per thing that differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from quire.contracts import AttentionBackend, Model
from quire.testing.model import ModelSuite
from quire_models_llama.model import LlamaFamily

SMALL = {
    "vocab_size": 203,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}


def _llama(**changes: Any) -> dict[str, Any]:
    return {"model_type": "llama", **SMALL, **changes}


CONFIGS: dict[str, dict[str, Any]] = {
    "llama3-gqa7-untied": _llama(
        rope_parameters=LLAMA3, hidden_size=56, num_attention_heads=7, num_key_value_heads=1
    ),
    "llama-head-dim-tied": _llama(head_dim=24, tie_word_embeddings=True),
    "llama-biases": _llama(attention_bias=True, mlp_bias=True, num_key_value_heads=4),
    "llama-yarn": _llama(rope_parameters=YARN),
    "llama-linear": _llama(rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}),
    "llama-dynamic": _llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}),
    "mistral-window": {"model_type": "mistral", **SMALL, "sliding_window": 9},
    "qwen2": {"model_type": "qwen2", **SMALL, "tie_word_embeddings": True},
    "qwen2-window-from-layer-1": {
        "model_type": "qwen2",
        **SMALL,
        "num_hidden_layers": 3,
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", **SMALL, "head_dim": 32},
}


class TestLlamaFamily(ModelSuite):
    @pytest.fixture
    def model_class(self) -> type[Model]:
        return LlamaFamily

    @pytest.fixture
    def attention_class(self) -> type[AttentionBackend]:
        from quire_attn_torch.backend import TorchAttention

        return TorchAttention

    @pytest.fixture(params=list(CONFIGS.values()), ids=list(CONFIGS))
    def hf_config(self, request: pytest.FixtureRequest) -> Mapping[str, Any]:
        config: Mapping[str, Any] = request.param
        return config
