"""Tables against transformers' own rotary embedding, variant by variant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quire.errors import UnsupportedModelError
from quire.layers import Build
from quire.layers.rotary import VARIANTS, RopeParameters, rotary_table

CONTEXT, HEAD_DIM = 64, 32

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "theta": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn-attention-factor": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 0.7,
    },
    "yarn-mscale": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 16,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
    },
    "yarn-betas": {
        "rope_type": "yarn",
        "rope_theta": 1000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def _config(**settings: Any) -> dict[str, Any]:
    return {"max_position_embeddings": CONTEXT, **settings}


def _theirs(rope: dict[str, Any], length: int) -> torch.Tensor:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=2 * HEAD_DIM,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters=dict(rope),
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(length)[None])
    half = HEAD_DIM // 2  # transformers repeats each half
    return torch.cat((cos[0, :, :half], sin[0, :, :half]), dim=-1)


def _ours(config: dict[str, Any], length: int) -> torch.Tensor:
    return rotary_table(RopeParameters.read(config, HEAD_DIM), length)


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_equals_transformers(rope: dict[str, Any]) -> None:
    torch.testing.assert_close(
        _ours(_config(rope_parameters=rope), CONTEXT), _theirs(rope, CONTEXT), rtol=0, atol=1e-5
    )


def test_every_variant_is_tested() -> None:
    assert {rope["rope_type"] for rope in ROPES.values()} == set(VARIANTS)


def test_a_server_for_short_sequences_has_the_first_rows() -> None:
    """A `max_model_len` below the context changes no frequency, dynamic ones neither."""
    for rope in ROPES.values():
        config = _config(rope_parameters=rope)
        torch.testing.assert_close(_ours(config, 7), _ours(config, CONTEXT)[:7], rtol=0, atol=0)


def test_dynamic_beyond_the_context_is_that_of_the_longest_sequence() -> None:
    rope, length = ROPES["dynamic"], 3 * CONTEXT
    long = _ours(_config(rope_parameters=rope), length)
    torch.testing.assert_close(long, _theirs(rope, length), rtol=0, atol=1e-4)
    assert (long[:CONTEXT] - _ours(_config(rope_parameters=rope), CONTEXT)).abs().max() > 0.1


@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("name", ["linear", "yarn", "llama3"])
def test_older_configs_say_the_same(name: str, key: str) -> None:
    rope = dict(ROPES[name])
    theta = rope.pop("rope_theta")
    rope[key] = rope.pop("rope_type")
    older = _ours(_config(rope_scaling=rope, rope_theta=theta), CONTEXT)
    torch.testing.assert_close(older, _ours(_config(rope_parameters=ROPES[name]), CONTEXT), rtol=0, atol=0)


def test_a_bare_config_means_the_default() -> None:
    torch.testing.assert_close(
        _ours(_config(), CONTEXT), _theirs(ROPES["default"], CONTEXT), rtol=0, atol=1e-5
    )
    older = _ours(_config(rope_theta=500000.0, rope_scaling=None), CONTEXT)
    torch.testing.assert_close(older, _theirs(ROPES["theta"], CONTEXT), rtol=0, atol=1e-5)


def test_parameters_nested_by_layer_type() -> None:
    config = _config(rope_parameters={"full_attention": ROPES["linear"], "sliding_attention": ROPES["theta"]})
    for layer_type, name in (("full_attention", "linear"), ("sliding_attention", "theta")):
        table = rotary_table(RopeParameters.read(config, HEAD_DIM, layer_type), CONTEXT)
        torch.testing.assert_close(table, _theirs(ROPES[name], CONTEXT), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["yarn", "llama3"])
def test_the_original_context_may_stand_beside_the_rope_parameters(name: str) -> None:
    """And then it rules, as in transformers."""
    config = _config(rope_parameters=ROPES[name], original_max_position_embeddings=32)
    rope = {**ROPES[name], "original_max_position_embeddings": 32}
    torch.testing.assert_close(_ours(config, CONTEXT), _theirs(rope, CONTEXT), rtol=0, atol=1e-5)


def test_yarn_without_a_factor_stretches_to_the_context() -> None:
    """16 to 64 is 4."""
    rope = {key: value for key, value in ROPES["yarn"].items() if key != "factor"}
    ours = _ours(_config(rope_parameters=rope), CONTEXT)
    torch.testing.assert_close(ours, _theirs(ROPES["yarn"], CONTEXT), rtol=0, atol=1e-5)


def test_partial_rotation_has_a_narrower_table() -> None:
    config = _config(rope_parameters={**ROPES["default"], "partial_rotary_factor": 0.5})
    assert _ours(config, 4).shape == (4, HEAD_DIM // 2)


def test_an_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'longrope'\. Choose one of: default, dynamic, linear"):
        _ours(_config(rope_parameters={"rope_type": "longrope"}), 4)


def test_a_missing_number_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="'llama3' lacks low_freq_factor, high_freq_factor"):
        _ours(_config(rope_parameters={"rope_type": "llama3", "factor": 8.0}), 4)


def test_layers_of_equal_parameters_share_a_table(make_build: Callable[..., Build]) -> None:
    build = make_build(_config(), max_model_len=10)
    rotary = build.rotary(HEAD_DIM)
    assert build.rotary(HEAD_DIM) is rotary
    assert build.rotary(16) is not rotary
    assert build.rotary(HEAD_DIM, interleaved=True) is not rotary
    assert rotary.cos_sin.shape == (10, HEAD_DIM)
    assert rotary.cos_sin.dtype == torch.float32
