"""Whatever headers and settings say: the checkpoint is read, or refused by an error that names the fault."""

from __future__ import annotations

from typing import Any

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
from quire.errors import CheckpointError, UnsupportedModelError
from quire.ops import Kernels
from quire_quant_compressed_tensors import testing
from quire_quant_compressed_tensors.quantization import CompressedTensors

# On "meta" nothing takes memory.
KERNELS = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="meta"))
SPEC = LinearSpec(name="a", parts=(LinearPart("a", Span.whole(8)),), inp=Span.whole(32))
WEIGHT = torch.ones(8, 32)
CHECKPOINTS = {
    "pack-quantized": (
        {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 8},
        None,
        testing.pack(WEIGHT, bits=4, group_size=8, symmetric=False),
    ),
    "int-quantized": (
        {"num_bits": 8, "strategy": "channel"},
        testing.per_token("int"),
        testing.plain(WEIGHT, torch.int8),
    ),
    "float-quantized": (
        {"num_bits": 8, "type": "float", "strategy": "tensor"},
        testing.per_token("float"),
        testing.plain(WEIGHT, torch.float8_e4m3fn, per_tensor=True),
    ),
    "naive-quantized": (
        {"num_bits": 8, "type": "float", "strategy": "channel"},
        testing.static(),
        testing.plain(WEIGHT, torch.float8_e4m3fn, input_scale=0.5),
    ),
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-2, 64),
    st.floats(),
    st.sampled_from(
        ["int", "float", "group", "channel", "tensor", "block", "token", "re:(", "re:a", "a", "dense"]
    ),
    st.lists(st.one_of(st.sampled_from(["a", "re:[", "Linear"]), st.integers()), max_size=2),
    st.dictionaries(st.sampled_from(["format", "targets"]), st.integers() | st.text(max_size=2), max_size=1),
)
WEIGHTS = [
    "num_bits",
    "type",
    "symmetric",
    "strategy",
    "group_size",
    "dynamic",
    "actorder",
    "block_structure",
]
GROUP = ["targets", "weights", "input_activations", "output_activations", "format"]
TOP = ["config_groups", "ignore", "format", "sparsity_config", "kv_cache_scheme", "transform_config"]


def opened(headers: dict[str, TensorHeader], config: dict[str, Any]) -> None:
    need = QuantizationNeed(device="cpu", dtype="float32", config=config)
    CompressedTensors.reject(need)
    quantization = CompressedTensors(
        QuantizationInit(need=need, headers=headers, kernels=KERNELS, device="meta")
    )
    for method in quantization.linear(SPEC):
        for weight in method.create_weights():
            assert tuple(weight.target.shape) == tuple(span.size for span in weight.take)


@settings(deadline=None, max_examples=400)
@given(
    stored=st.sampled_from(sorted(CHECKPOINTS)),
    weights=st.dictionaries(st.sampled_from(WEIGHTS), VALUES, max_size=2),
    activations=st.dictionaries(st.sampled_from(WEIGHTS), VALUES, max_size=1),
    group=st.dictionaries(st.sampled_from(GROUP), VALUES, max_size=1),
    top=st.dictionaries(st.sampled_from(TOP), VALUES, max_size=1),
    tensors=st.dictionaries(
        st.sampled_from(
            [
                "weight",
                "weight_packed",
                "weight_scale",
                "weight_shape",
                "weight_zero_point",
                "weight_g_idx",
                "input_scale",
            ]
        ),
        st.one_of(
            st.none(),
            st.tuples(
                st.sampled_from(["I32", "I64", "I8", "F16", "F32", "U8", "F8_E4M3", "BOOL", "NEW"]),
                st.lists(st.integers(0, 1 << 40) | st.integers(0, 40), max_size=3),
            ),
        ),
        max_size=2,
    ),
)
def test_mutated_headers_and_settings_end_in_a_named_error(
    stored: str,
    weights: dict[str, Any],
    activations: dict[str, Any],
    group: dict[str, Any],
    top: dict[str, Any],
    tensors: dict[str, tuple[str, list[int]] | None],
) -> None:
    good, per_token, encoded = CHECKPOINTS[stored]
    table = {
        "targets": ["Linear"],
        "weights": {**good, **weights},
        "input_activations": None if per_token is None else {**per_token, **activations},
        **group,
    }
    config = {"format": stored, "config_groups": {"group_0": table}, "ignore": ["lm_head"], **top}
    headers = testing.headers_of("a", encoded.tensors)
    for suffix, change in tensors.items():
        headers.pop(f"a.{suffix}", None)
        if change is not None:
            headers[f"a.{suffix}"] = TensorHeader(change[0], tuple(change[1]), "model.safetensors")
    message = "the checkpoint is read"
    try:
        opened(headers, config)
    except (CheckpointError, UnsupportedModelError) as error:
        message = str(error)
    assert "'a." in message or "checkpoint" in message
