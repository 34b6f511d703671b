"""The part of `KernelsSuite` that holds fused decoder layers to the unfused ones.

Two layers run over a paged cache, chunked, batched and token by token, once with what `decoder_layer`
returned and once operation by operation on the same kernels: rows and cache have to be the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from quire.contracts import (
    AttentionBackend,
    DecoderLayerParts,
    ModelNeed,
    Quantization,
    Weight,
    WeightMapping,
)
from quire.layers import (
    Build,
    DecoderLayer,
    GatedMLP,
    SelfAttention,
    Step,
    Unquantized,
    finish,
    weights_of,
)
from quire.ops import Kernels
from quire.testing.int8_projections import Int8Projections, OtherInt8Projections, SomeInt8Projections
from quire.testing.plain_attention import PlainAttention
from quire.testing.runner import PagedRunner, RejectedError
from quire.testing.wna16_projections import OrderedWna16Projections, SomeWna16Projections, Wna16Projections

TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Largest difference, absolute and relative: two layers of the operations' own tolerances."""

_ROUND = {"hidden_size": 64, "head_dim": 32, "intermediate_size": 96}

VARIANTS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "window": {"window": 6},
    "qk-norm": {"qk_norm_eps": 1e-6},
    "biases": {"qkv_bias": True, "out_bias": True, "num_kv_heads": 4, "mlp_bias": True},
    "gelu, no rotary": {"activation": "gelu_pytorch_tanh", "rotary": False, "num_kv_heads": 1},
    "round sizes": _ROUND,
    "int8": {},
    "int8, biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "int8, round sizes": {**_ROUND, "mlp_bias": True},
    "some int8": {},
    "other int8, round sizes": _ROUND,
    "wna16": {},
    "wna16, biases, round sizes": {**_ROUND, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "ordered wna16": {},
    "some wna16, round sizes": _ROUND,
}
"""What differs from odd sizes, in blocks of 4 tokens; round sizes lie in blocks of 16."""

QUANTIZED: dict[str, type[Quantization]] = {
    "int8": Int8Projections,
    "some int8": SomeInt8Projections,
    "other int8": OtherInt8Projections,
    "wna16": Wna16Projections,
    "ordered wna16": OrderedWna16Projections,
    "some wna16": SomeWna16Projections,
}
"""Up to their comma, variants whose projections are not all floats."""

QUANTIZED_TOLERANCE = 2e-2
"""As `TOLERANCES`, where a last bit may have made another code of an activation."""

DEFAULTS: dict[str, Any] = {
    "hidden_size": 44,
    "head_dim": 12,
    "intermediate_size": 52,
    "num_kv_heads": 2,
    "activation": "silu",
    "rotary": True,
    "mlp_bias": False,
}

STEPS: list[dict[str, int]] = [
    {"a": 7},
    {"a": 6, "b": 5},
    {"a": 1, "b": 1, "c": 19},
    {"c": 1, "a": 1, "b": 1},
    {"b": 3, "c": 1},
]
"""Tokens computed per step: prefill whole and in chunks, beside decoding, and decoding alone."""


class DecoderLayerChecks:
    """Mixed into `KernelsSuite`; override `attention_class` with the backend the kernels fuse with."""

    @pytest.fixture
    def attention_class(self) -> type[AttentionBackend]:
        """The backend whose native handle a fused layer is given."""
        return PlainAttention

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_a_fused_decoder_layer_equals_the_unfused_one(
        self,
        kernels_class: type[Kernels],
        attention_class: type[AttentionBackend],
        device: str,
        each_dtype: list[torch.dtype],
        variant: str,
    ) -> None:
        unfused_class = type("Unfused", (kernels_class,), {"decoder_layer": _none})
        compared = 0
        for dtype in each_dtype:
            try:
                runners = [
                    two_layers(variant, attention_class, one, device, dtype)
                    for one in (kernels_class, unfused_class)
                ]
            except RejectedError:  # a dtype that this backend leaves to others
                continue
            if all(layer.fused is None for layer in runners[0].model.layers):  # type: ignore[attr-defined]
                continue
            compared += 1
            limit = TOLERANCES[dtype]
            fused, unfused = runners
            _compare(fused, unfused, limit if "int8" not in variant else max(limit, QUANTIZED_TOLERANCE))
        if not compared:
            pytest.skip("these kernels fuse no such layer")


class TwoLayers(nn.Module):
    """Two decoder layers between an embedding and a norm; its "logits" are its hidden states."""

    mapping: ClassVar[WeightMapping] = WeightMapping(
        stacked={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    )

    def __init__(self, config: Mapping[str, Any], build: Build) -> None:
        super().__init__()
        settings = {**DEFAULTS, **config}
        hidden, head_dim = settings.pop("hidden_size"), settings.pop("head_dim")
        intermediate = settings.pop("intermediate_size")
        rotary = build.rotary(head_dim) if settings.pop("rotary") else None
        activation, mlp_bias = settings.pop("activation"), settings.pop("mlp_bias")
        self.embed_tokens = build.embedding("embed", 31, hidden)
        self.layers = nn.ModuleList(
            DecoderLayer(
                build,
                input_norm=build.norm(f"{index}.input_norm", hidden, 1e-5),
                mixer=SelfAttention(
                    build,
                    f"{index}.attn",
                    hidden,
                    num_heads=4,
                    head_dim=head_dim,
                    rotary=rotary,
                    **settings,
                ),
                post_norm=build.norm(f"{index}.post_norm", hidden, 1e-5),
                mlp=GatedMLP(
                    build, f"{index}.mlp", hidden, intermediate, activation=activation, bias=mlp_bias
                ),
            )
            for index in range(2)
        )
        self.norm = build.norm("norm", hidden, 1e-5)

    @classmethod
    def reject(cls, need: ModelNeed) -> str | None:
        return None

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.embed_tokens(token_ids)
        return out

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        residual = None
        for layer in self.layers:
            kept = [(given, given.clone()) for given in (x, residual, positions) if given is not None]
            x, residual = layer(x, residual, positions, step)
            assert all(torch.equal(given, before) for given, before in kept), "an input was written to"
        hidden: torch.Tensor = self.norm(x, residual)[0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def weights(self) -> Iterable[Weight]:
        return weights_of(self)

    def finish(self) -> None:
        finish(self)


def two_layers(
    variant: str,
    attention_class: type[AttentionBackend],
    kernels_class: type[Kernels],
    device: str,
    dtype: torch.dtype,
    *,
    deterministic: bool = False,
) -> PagedRunner:
    """A variant of `TwoLayers` with random weights.

    Raises:
        RejectedError: the backend does not serve it.
    """
    return PagedRunner(
        TwoLayers,
        VARIANTS[variant],
        None,
        attention_class=attention_class,
        quantization_class=QUANTIZED.get(variant.partition(",")[0], Unquantized),
        kernels_class=kernels_class,
        block_size=16 if "round sizes" in variant else 4,
        device=device,
        dtype=dtype,
        deterministic=deterministic,
    )


def _none(kernels: Kernels, parts: DecoderLayerParts) -> None:
    return None


def _compare(fused: PagedRunner, unfused: PagedRunner, tolerance: float) -> None:
    for name in ("a", "b", "c"):
        ids = [(7 * position + ord(name)) % 31 for position in range(24)]
        for runner in (fused, unfused):
            runner.add(name, ids)
    for counts in STEPS:
        ours, theirs = fused.run(counts), unfused.run(counts)
        for name in counts:
            _close(ours[name], theirs[name], tolerance)
        for mine, others in zip(fused.kv, unfused.kv, strict=True):
            for name in others:
                _close(mine[name], others[name], tolerance)


def _close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance, rtol=tolerance)
