"""What peers are given: GGUF names, rotary rows and frequencies; what their adapters make of prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from checkpoint import SHAPES
from gguf_file import gguf_name, interleave_rotary, rope_divisors
from harness.adapters.llamacpp_context import shared_length
from harness.adapters.roofline import bytes_read, linear_shapes, weights_read
from harness.adapters.worker import Request


@pytest.mark.parametrize(
    ("name", "gguf"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("model.layers.3.mlp.up_proj.weight", "blk.3.ffn_up.weight"),
        ("model.layers.12.input_layernorm.weight", "blk.12.attn_norm.weight"),
    ],
)
def test_weights_have_their_names_in_gguf(name: str, gguf: str) -> None:
    assert gguf_name(name) == gguf


def test_rotating_neighbours_equals_rotating_halves() -> None:
    """The scores of a rotated query and key are the same in both layouts."""
    draw = np.random.default_rng(0)
    heads, dim, hidden = 2, 8, 5
    weights = [draw.normal(size=(heads * dim, hidden)) for _ in range(2)]
    x, angles = draw.normal(size=hidden), draw.normal(size=dim // 2)

    def by_halves(
        rows: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        a, b = rows[..., : dim // 2], rows[..., dim // 2 :]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def by_neighbours(
        rows: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        a, b = rows[..., ::2], rows[..., 1::2]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    plain = [by_halves((weight @ x).reshape(heads, dim)) for weight in weights]
    moved = [by_neighbours((interleave_rotary(one, heads) @ x).reshape(heads, dim)) for one in weights]
    np.testing.assert_allclose((plain[0] * plain[1]).sum(-1), (moved[0] * moved[1]).sum(-1))


def test_rope_divisors_are_those_of_llama_3() -> None:
    shape = SHAPES["1b"]
    dim = shape["head_dim"]
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**shape), torch.device("cpu"))
    plain = shape["rope_parameters"]["rope_theta"] ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    expected = plain / scaled.to(torch.float64)
    torch.testing.assert_close(
        torch.tensor(rope_divisors(shape["rope_parameters"], dim), dtype=torch.float64),
        expected,
        rtol=1e-5,
        atol=0.0,
    )


def test_the_limit_reads_what_a_token_reads() -> None:
    assert weights_read(SHAPES["135m"]) / 1e6 == pytest.approx(134.5, abs=0.1)
    assert weights_read(SHAPES["1b"]) / 1e9 == pytest.approx(1.236, abs=0.001)
    assert linear_shapes(SHAPES["135m"]) == [(960, 576), (576, 576), (3072, 576), (576, 1536)]


def test_a_head_in_another_type_is_read_as_that() -> None:
    weights, head = weights_read(SHAPES["1b"]), 2048 * 128_256
    assert bytes_read(SHAPES["1b"], 2, 2) == 2 * weights
    assert bytes_read(SHAPES["1b"], 0.5, 2) == (weights - head) // 2 + 2 * head


def test_a_prefix_is_shared_only_among_several_and_if_long() -> None:
    prefix = list(range(100, 120))

    def shared(*prompts: list[int]) -> int:
        return shared_length([Request(prompt, 1) for prompt in prompts])

    assert shared([*prefix, 1, 2], [*prefix, 3, 4, 5]) == 20
    assert shared(prefix) == 0
    assert shared([*prefix[:9], 1], [*prefix[:9], 2]) == 0
    assert shared(prefix, prefix) == 19  # one token of each prompt is left to compute
