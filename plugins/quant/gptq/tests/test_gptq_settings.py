"""Settings as tools wrote them, settings that make no sense, and headers and settings at random."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import (
    KernelsInit,
    KernelsNeed,
    LinearPart,
    LinearSpec,
    QuantizationInit,
    QuantizationNeed,
    Span,
    TensorHeader,
)
from quire.errors import CheckpointError
from quire.ops import Kernels
from quire_quant_gptq.quantization import Gptq
from quire_quant_gptq.settings import GptqSettings, ModuleSettings

PLAIN: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 128}


@pytest.mark.parametrize(
    ("config", "stored_zeros"),
    [
        ({}, "z-1"),
        ({"checkpoint_format": "gptq"}, "z-1"),
        ({"checkpoint_format": "gptq_v2", "meta": {"quantizer": ["gptqmodel:7.7.0"]}}, "z"),
        ({"format": "gptq_v2"}, "z"),
        ({"checkpoint_format": "gptq", "meta": {"quantizer": ["gptqmodel:7.7.0"]}}, "word-ones"),
        ({"meta": {"quantizer": "gptqmodel:0.9.0"}}, "word-ones"),
        ({"meta": {"quantizer": ["intel/auto-round:0.4"]}}, "z-1"),
        ({"meta": None, "is_marlin_format": False, "desc_act": True, "anything": "else"}, "z-1"),
    ],
)
def test_the_writer_and_its_format_say_how_zeros_are_stored(
    config: dict[str, Any], stored_zeros: str
) -> None:
    assert GptqSettings.read(PLAIN | config).stored_zeros == stored_zeros


def test_overrides_are_matched_from_the_start_and_in_order() -> None:
    dynamic = {
        r"-:model\.layers\.0\.": {},
        r"+:.*\.down_proj": {"bits": 8, "group_size": 32, "sym": True},
        r".*\.up_proj$": {"group_size": -1},
        r"layers": {"bits": 2},
        r"lm_head": {"bits": 8},
        r".*": {},
    }
    found = GptqSettings.read(PLAIN | {"dynamic": dynamic})
    assert found.module("model.layers.0.mlp.down_proj") is None
    assert found.module("model.layers.1.mlp.down_proj") == ModuleSettings(8, 32)
    assert found.module("model.layers.1.mlp.up_proj") == ModuleSettings(4, -1)
    assert found.module("model.layers.1.mlp.gate_proj") == ModuleSettings(4, 128)
    assert found.module("lm_head") == ModuleSettings(8, 128)


@pytest.mark.parametrize("quantized", [False, True])
def test_the_head_is_quantized_if_the_settings_say_so(quantized: bool) -> None:
    found = GptqSettings.read(PLAIN | {"lm_head": quantized})
    assert found.module("lm_head") == (ModuleSettings(4, 128) if quantized else None)
    assert found.module("model.layers.0.mlp.up_proj") == ModuleSettings(4, 128)


def test_a_checkpoint_without_a_group_size_has_one_group() -> None:
    assert GptqSettings.read({"bits": 4}).default == ModuleSettings(4, -1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 5}, "bits is 5, expected one of 2, 3, 4, 8"),
        ({"bits": 4.0}, "bits must be an integer, not 4.0"),
        ({"bits": None}, "bits must be an integer, not None"),
        ({"bits": True}, "bits must be an integer, not True"),
        ({"group_size": 0}, "group_size is 0, expected a number of inputs, or -1"),
        ({"group_size": -2}, "group_size is -2"),
        ({"group_size": "128"}, "group_size must be an integer, not '128'"),
        ({"is_marlin_format": True}, "Marlin's layout.*format 'gptq'"),
        ({"checkpoint_format": "marlin"}, "Marlin's layout"),
        ({"is_marlin_format": "yes"}, "is_marlin_format must be true or false"),
        ({"checkpoint_format": "gptq_p"}, "checkpoint_format 'gptq_p' is not read.*gptq, gptq_v2"),
        ({"checkpoint_format": ["gptq"]}, "checkpoint_format .* is not read"),
        ({"lm_head": 1}, "lm_head must be true or false, not 1"),
        ({"dynamic": ["a"]}, "dynamic must be an object, not list"),
        ({"dynamic": {"(": {}}}, r"dynamic '\(' is no regular expression"),
        ({"dynamic": {"a": 4}}, "dynamic 'a' must be an object, not int"),
        ({"dynamic": {"a": {"bits": 7}}}, "dynamic 'a': bits is 7"),
        ({"dynamic": {"a": {"group_size": 0}}}, "dynamic 'a': group_size is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        GptqSettings.read(PLAIN | change)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(
        st.text(max_size=6) | st.just("m"),
        st.none()
        | st.text(max_size=3)
        | st.dictionaries(st.sampled_from(["bits", "group_size"]), st.integers()),
        max_size=2,
    )
)
KEYS = ("bits", "group_size", "checkpoint_format", "format", "dynamic", "lm_head", "meta", "is_marlin_format")
GOOD = {
    "m.qweight": TensorHeader("I32", (16, 32), "a.safetensors"),
    "m.qzeros": TensorHeader("I32", (1, 4), "a.safetensors"),
    "m.scales": TensorHeader("F16", (1, 32), "a.safetensors"),
    "m.g_idx": TensorHeader("I32", (128,), "a.safetensors"),
    "m.bias": TensorHeader("F16", (32,), "a.safetensors"),
}
SPEC = LinearSpec(name="m", parts=(LinearPart("m", Span.whole(32)),), inp=Span.whole(128))


def read(config: dict[str, Any], headers: dict[str, TensorHeader]) -> list[tuple[str, tuple[int, ...]]]:
    """Open, and declare what is to be loaded: on "meta", where nothing is allocated."""
    kernels = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="meta"))
    quantization = Gptq(
        QuantizationInit(
            need=QuantizationNeed(device="cpu", dtype="float32", config=config),
            headers=headers,
            kernels=kernels,
            device="meta",
        )
    )
    weights = [w for method in quantization.linear(SPEC) for w in method.create_weights()]
    assert all(weight.target.device == torch.device("meta") for weight in weights)
    return [(weight.name, weight.shape) for weight in weights]


def refusal(config: dict[str, Any], headers: dict[str, TensorHeader]) -> str | None:
    """Why they are refused; None if they were read, and what is declared is what the headers have."""
    try:
        found = read(config, headers)
    except CheckpointError as error:
        return str(error)
    assert dict(found) == {name: header.shape for name, header in headers.items()}
    return None


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_settings_at_random_are_read_or_refused(change: dict[str, Any]) -> None:
    refused = refusal(PLAIN | change, GOOD)
    assert refused is None or re.search("quantization_config|tensor 'm", refused)


@settings(deadline=None)
@given(st.data())
def test_headers_at_random_are_read_or_refused_by_name(data: st.DataObject) -> None:
    headers = dict(GOOD)
    name = data.draw(st.sampled_from(sorted(GOOD)))
    change = data.draw(st.sampled_from(["drop", "dtype", "shape"]))
    header = headers.pop(name)
    if change == "dtype":
        dtype = data.draw(st.sampled_from(["I64", "I32", "F32", "F16", "U8", "BOOL", "F8_E4M3"]))
        headers[name] = TensorHeader(dtype, header.shape, header.file)
    elif change == "shape":
        shape = data.draw(st.lists(st.integers(0, 2**40), max_size=3))
        headers[name] = TensorHeader(header.dtype, tuple(shape), header.file)
    refused = refusal(PLAIN | {"group_size": data.draw(st.sampled_from([-1, 128, 2**40]))}, headers)
    if refused is not None:
        assert name in refused
        assert change == "drop" or "a.safetensors: tensor" in refused
