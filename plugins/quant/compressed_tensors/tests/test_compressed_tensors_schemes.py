"""Which scheme the settings give a module, and which settings are refused."""

from __future__ import annotations

from typing import Any

import pytest

from quire.contracts import QuantizationNeed
from quire.errors import CheckpointError, UnsupportedModelError
from quire_quant_compressed_tensors.quantization import CompressedTensors
from quire_quant_compressed_tensors.schemes import Scheme, Schemes
from quire_quant_compressed_tensors.testing import per_token, settings, static

W4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
W8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
FP8 = {**W8, "type": "float"}
MODULE = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("weights", "activations", "stored", "expected"),
    [
        (W4, None, "pack-quantized", Scheme("group_0", "packed", 4, 128)),
        ({**W4, "strategy": None}, None, None, Scheme("group_0", "packed", 4, 128)),
        (
            {**W4, "symmetric": False},
            None,
            "pack-quantized",
            Scheme("group_0", "packed", 4, 128, symmetric=False),
        ),
        ({**W4, "actorder": "static"}, None, "pack-quantized", Scheme("group_0", "packed", 4, 128)),
        (
            {**W4, "actorder": "group"},
            None,
            "pack-quantized",
            Scheme("group_0", "packed", 4, 128, indexed=True),
        ),
        (W8, None, "pack-quantized", Scheme("group_0", "packed", 8)),
        ({**W8, "group_size": -1}, None, "pack-quantized", Scheme("group_0", "packed", 8)),
        (W8, per_token("int"), "int-quantized", Scheme("group_0", "int8", 8)),
        (FP8, per_token("float"), "float-quantized", Scheme("group_0", "fp8", 8)),
        (FP8, per_token("float"), "naive-quantized", Scheme("group_0", "fp8", 8)),
        (
            {**FP8, "strategy": "tensor"},
            per_token("float"),
            "float-quantized",
            Scheme("group_0", "fp8", 8, per_tensor=True),
        ),
        (FP8, static(), "float-quantized", Scheme("group_0", "fp8", 8, static=True)),
        (FP8, {**static(), "strategy": None}, None, Scheme("group_0", "fp8", 8, static=True)),
    ],
)
def test_schemes_that_are_read(
    weights: dict[str, Any], activations: dict[str, Any] | None, stored: str | None, expected: Scheme
) -> None:
    config = settings(weights, activations, format=stored)
    assert Schemes(config).of(MODULE) == expected
    assert Schemes(config).of("lm_head") is None
    assert CompressedTensors.reject(QuantizationNeed(device="cpu", dtype="float32", config=config)) is None


def grouped(*groups: tuple[list[str], int], ignore: list[str] | None = None) -> Schemes:
    """Groups of targets, told apart by their group size."""
    tables = {
        f"group_{index}": {"targets": targets, "weights": {**W4, "group_size": size}}
        for index, (targets, size) in enumerate(groups)
    }
    return Schemes({"config_groups": tables, "ignore": ignore})


def test_a_name_goes_before_a_pattern_and_a_pattern_before_the_class() -> None:
    schemes = grouped((["Linear"], 32), ([r"re:.*mlp\..*"], 64), ([MODULE], 128), (["re:.*up"], 16))
    assert [
        scheme.group_size
        for name in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj", MODULE)
        if (scheme := schemes.of(name)) is not None
    ] == [32, 64, 128]


def test_patterns_count_from_the_beginning_of_a_name() -> None:
    assert grouped((["re:mlp"], 32)).of(MODULE) is None
    assert grouped((["re:model.layers.0"], 32)).of(MODULE) is not None
    assert grouped((["up_proj"], 32)).of(MODULE) is None


def test_ignored_modules_have_no_scheme() -> None:
    schemes = grouped(
        (["Linear"], 32), ignore=["lm_head", r"re:.*\.down_proj$", "model.layers.1.mlp.up_proj"]
    )
    names = ["lm_head", "model.layers.5.mlp.down_proj", "model.layers.1.mlp.up_proj"]
    assert [schemes.of(name) for name in names] == [None] * 3
    assert schemes.of(MODULE) is not None
    assert grouped((["Linear"], 32), ignore=["Linear"]).of(MODULE) is None


def test_a_group_that_quantizes_nothing_is_none() -> None:
    assert Schemes({"config_groups": {"a": {"targets": ["Linear"], "weights": None}}}).of(MODULE) is None


@pytest.mark.parametrize(
    ("weights", "activations", "others", "message"),
    [
        (FP8, {**static(), "strategy": "token"}, {}, "and activations in float8 by token static"),
        (W8, {**static(), "type": "int"}, {}, "by channel static and activations in int8 by tensor static"),
        (FP8, {**per_token("float"), "strategy": "tensor"}, {}, "activations in float8 by tensor dynamic"),
        (W8, {**per_token("int"), "symmetric": False}, {}, "activations in int8 by token asymmetric dynamic"),
        (W4, per_token("int"), {}, "weights in int4 by group of 128 static and activations in int8"),
        (W4, per_token("float"), {}, "weights in int4 by group of 128 static and activations in float8"),
        (FP8, per_token("int"), {}, "weights in float8 by channel static and activations in int8"),
        ({**W8, "symmetric": False}, per_token("int"), {}, "weights in int8 by channel asymmetric"),
        ({**W8, "dynamic": True}, None, {}, "weights in int8 by channel dynamic"),
        ({**W4, "num_bits": 3}, None, {}, "weights in int3 by group of 128 static"),
        ({**W4, "type": "float"}, None, {}, "weights in float4"),
        (FP8, None, {}, "weights in float8 by channel static and activations in full precision"),
        (
            {**FP8, "strategy": "block", "block_structure": [128, 128]},
            per_token("float"),
            {},
            "float8 by block",
        ),
        (W4, None, {"format": "marlin-24"}, "stored as 'marlin-24'"),
        (W4, None, {"format": "nvfp4-pack-quantized"}, "stored as 'nvfp4-pack-quantized'"),
        (W4, None, {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse format 'sparse-24-bitmask'"),
        (
            W4,
            None,
            {"kv_cache_scheme": {"num_bits": 8}},
            r"kv_cache_scheme of the checkpoint is \{'num_bits'",
        ),
        (W4, None, {"transform_config": {"config_groups": {}}}, "transform_config of the checkpoint is"),
    ],
)
def test_other_schemes_are_refused_by_what_they_are(
    weights: dict[str, Any], activations: dict[str, Any] | None, others: dict[str, Any], message: str
) -> None:
    config = settings(weights, activations, **others)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        Schemes(config)
    assert "Use a checkpoint in W4A16 or W8A16" in str(caught.value)
    need = QuantizationNeed(device="cpu", dtype="float32", config=config)
    assert CompressedTensors.reject(need) == str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"quantization_config\.config_groups of the checkpoint is None, expected a table"),
        ({"config_groups": {}}, r"config_groups of the checkpoint is \{\}"),
        ({"config_groups": {"W4A16": ["Linear"]}}, r"config_groups\.W4A16 of the checkpoint is \['Linear'\]"),
        (
            {"config_groups": {"a": {"targets": ["Linear"], "weights": []}}},
            r"config_groups\.a\.weights of the",
        ),
        (
            {"config_groups": {"a": {"targets": "Linear"}}},
            r"config_groups\.a\.targets of the checkpoint is 'Linear'",
        ),
        (settings(W4, ignore="lm_head"), r"\.ignore of the checkpoint is 'lm_head', expected a list"),
        (settings(W4, ignore=["re:("]), r"\.ignore of the checkpoint is 're:\(', expected a regular"),
        (settings({**W4, "group_size": 0}), r"weights\.group_size of the checkpoint is 0"),
        (settings({**W4, "group_size": -5}), r"weights\.group_size of the checkpoint is -5"),
        (settings({**W4, "group_size": None}), r"group_size of the checkpoint is None.*strategy is 'group'"),
        (settings({**W4, "num_bits": "4"}), r"weights\.num_bits of the checkpoint is '4'"),
        (settings({**W4, "symmetric": 1}), r"weights\.symmetric of the checkpoint is 1"),
        (settings(W4, sparsity_config=3), r"sparsity_config of the checkpoint is 3"),
    ],
)
def test_malformed_settings_are_refused_when_opened(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Schemes(config)
    assert CompressedTensors.reject(QuantizationNeed(device="cpu", dtype="float32", config=config)) is None
