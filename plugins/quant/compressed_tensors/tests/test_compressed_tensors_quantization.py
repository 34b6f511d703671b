"""Modules are quantized where their tensors are, by the scheme that the settings give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from quire.contracts import (
    KernelsInit,
    KernelsNeed,
    LinearMethod,
    LinearPart,
    LinearSpec,
    QuantizationInit,
    QuantizationNeed,
    Span,
    TensorHeader,
)
from quire.errors import CheckpointError
from quire.layers import QuantizedLinear
from quire.ops import Kernels
from quire.testing.quantized_activations import quantized_and_back
from quire.weights.loader import initialise_dummy
from quire_quant_compressed_tensors.quantization import CompressedTensors
from quire_quant_compressed_tensors.testing import headers_of, pack, per_token, plain, settings, static

KERNELS = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
W4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16}
W8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
FP8 = {**W8, "type": "float"}
PLAIN = TensorHeader("BF16", (8, 32), "model.safetensors")


def opened(config: Mapping[str, Any], headers: Mapping[str, TensorHeader] | None = None) -> CompressedTensors:
    need = QuantizationNeed(device="cpu", dtype="float32", config=config)
    return CompressedTensors(
        QuantizationInit(need=need, headers=headers or {}, kernels=KERNELS, device="cpu")
    )


def spec(*names: str) -> LinearSpec:
    parts = tuple(LinearPart(name, Span.whole(8)) for name in names)
    return LinearSpec(name="fused", parts=parts, inp=Span.whole(32))


def quantized(methods: Sequence[LinearMethod]) -> list[bool]:
    return [isinstance(method, QuantizedLinear) for method in methods]


def packed(module: str, **options: Any) -> dict[str, TensorHeader]:
    stored = pack(torch.randn(8, 32), **{"bits": 4, "group_size": 16, **options})
    return headers_of(module, stored.tensors)


def test_parts_of_one_scheme_are_one_matrix_and_others_runs() -> None:
    headers = {**packed("q"), **packed("k"), "v.weight": PLAIN}
    assert quantized(opened(settings(W4), headers).linear(spec("q", "k", "v"))) == [True, False]
    groups = {
        "a": {"targets": ["Linear"], "weights": W4},
        "b": {"targets": ["k"], "weights": {**W4, "group_size": 32}},
    }
    headers = {**packed("q"), **packed("k", group_size=32), **packed("v")}
    methods = opened({"config_groups": groups}, headers).linear(spec("q", "k", "v"))
    assert quantized(methods) == [True, True, True]


def test_parts_of_different_static_scales_are_multiplied_one_by_one() -> None:
    """Modules of one input have been measured one by one; where they agree they are one matrix."""
    x, weights = torch.randn(3, 32), {name: torch.randn(8, 32) for name in "qkv"}
    scales = {"q": 0.02, "k": 0.02, "v": 0.01}
    stored = {
        name: plain(weight, torch.float8_e4m3fn, input_scale=scales[name]) for name, weight in weights.items()
    }
    headers: dict[str, TensorHeader] = {}
    for part, module in stored.items():
        headers |= headers_of(part, module.tensors)
    (method,) = opened(settings(FP8, static()), headers).linear(spec("q", "k", "v"))
    for weight in method.create_weights():
        part, _, suffix = weight.name.partition(".")
        weight.store(stored[part].tensors[suffix])
    method.finish()
    expected = [
        quantized_and_back(x, "fp8_static", torch.tensor(scales[name])) @ module.weight.double().t()
        for name, module in stored.items()
    ]
    torch.testing.assert_close(method.apply(x).double(), torch.cat(expected, dim=-1), rtol=0, atol=1e-4)
    assert method.packed() is None


def test_targets_go_by_the_checkpoints_own_names() -> None:
    """A model may call a module something else: the settings cannot know."""
    own = {name: replace(header, name=f"language.{name}") for name, header in packed("q").items()}
    groups = {"a": {"targets": ["language.q"], "weights": W4}}
    assert quantized(opened({"config_groups": groups}, own).linear(spec("q"))) == [True]
    with pytest.raises(CheckpointError, match="no target of its config_groups names it"):
        opened({"config_groups": groups}, packed("q")).linear(spec("q"))


def test_schemes_of_different_kinds_meet_in_one_projection() -> None:
    groups = {
        "a": {"targets": ["q"], "weights": W4, "format": "pack-quantized"},
        "b": {
            "targets": ["k"],
            "weights": FP8,
            "input_activations": per_token("float"),
            "format": "float-quantized",
        },
    }
    headers = {**packed("q"), **headers_of("k", plain(torch.randn(8, 32), torch.float8_e4m3fn).tensors)}
    config = {"config_groups": groups, "format": "mixed-precision"}
    assert quantized(opened(config, headers).linear(spec("q", "k"))) == [True, True]


def test_a_quantized_head_is_read() -> None:
    config = settings(W4, ignore=[])
    assert quantized(opened(config, packed("lm_head")).linear(spec("lm_head"))) == [True]
    assert quantized(opened(config, {"lm_head.weight": PLAIN}).linear(spec("lm_head"))) == [False]


@pytest.mark.parametrize("ignore", [["q"], ["re:q"]])
def test_a_quantized_module_without_a_scheme_is_refused(ignore: list[str]) -> None:
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: tensor 'q\.weight_packed'.*ignores 'q', or"
    ):
        opened(settings(W4, ignore=ignore), packed("q")).linear(spec("q"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_codes_without_scales_are_no_plain_weight(dtype: torch.dtype) -> None:
    kind = "int" if dtype == torch.int8 else "float"
    headers = headers_of("q", {"weight": torch.zeros(8, 32).to(dtype)})
    config = settings({**W8, "type": kind}, per_token(kind))
    with pytest.raises(CheckpointError, match=r"Missing tensor 'q\.weight_scale', expected shape \[8, 1\]"):
        opened(config, headers).linear(spec("q"))


def test_a_weight_of_another_type_than_its_scheme_is_refused() -> None:
    headers = headers_of("q", plain(torch.randn(8, 32), torch.int8).tensors)
    with pytest.raises(CheckpointError, match=r"tensor 'q\.weight' has dtype I8, expected F8_E4M3"):
        opened(settings(FP8, per_token("float")), headers).linear(spec("q"))


def test_other_bits_than_the_tensors_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"'q\.weight_packed' has shape \[8, 4\], expected \[8, 8\]"):
        opened(settings({**W4, "num_bits": 8}), packed("q")).linear(spec("q"))


@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ({**W4, "actorder": "group", "symmetric": False}, None),
        (W8, per_token("int")),
        (FP8, per_token("float")),
    ],
)
def test_made_up_weights_are_multiplied(weights: dict[str, Any], activations: dict[str, Any] | None) -> None:
    (method,) = opened(settings(weights, activations)).linear(spec("q"))
    initialise_dummy(method.create_weights())
    method.finish()
    assert method.apply(torch.randn(3, 32)).isfinite().all()
    assert quantized(opened(settings(weights, activations)).linear(spec("lm_head"))) == [False]
