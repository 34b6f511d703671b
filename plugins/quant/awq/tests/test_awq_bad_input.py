"""Whatever headers and settings say: the checkpoint is read, or refused by an error that names the fault."""

from __future__ import annotations

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
from quire.errors import CheckpointError, UnsupportedModelError
from quire.ops import Kernels
from quire_quant_awq.quantization import AWQ
from quire_quant_awq.testing import PACKERS, headers_of

# On "meta" nothing takes memory.
KERNELS = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="meta"))
CONFIG: dict[str, Any] = {"bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
SPEC = LinearSpec(name="a", parts=(LinearPart("a", Span.whole(64)),), inp=Span.whole(128))


def headers(layout: str) -> dict[str, TensorHeader]:
    zeros = torch.zeros(4, 64, dtype=torch.int64)
    return headers_of("a", PACKERS[layout](torch.zeros(128, 64, dtype=torch.int64), zeros, zeros))


HEADERS = {layout: headers(layout) for layout in PACKERS}


def opened(found: dict[str, TensorHeader], config: dict[str, Any]) -> None:
    need = QuantizationNeed(device="cpu", dtype="float32", config=config)
    AWQ.reject(need)
    quantization = AWQ(QuantizationInit(need=need, headers=found, kernels=KERNELS, device="meta"))
    for method in quantization.linear(SPEC):
        for weight in method.create_weights():
            assert tuple(weight.target.shape) == tuple(span.size for span in weight.take)


@pytest.mark.parametrize("layout", sorted(PACKERS))
@pytest.mark.parametrize("suffix", ["qweight", "qzeros", "scales"])
def test_a_missing_or_misshapen_tensor_is_named(layout: str, suffix: str) -> None:
    config = {**CONFIG, "version": layout}
    opened(HEADERS[layout], config)
    found = dict(HEADERS[layout])
    header = found.pop(f"a.{suffix}")
    with pytest.raises(CheckpointError, match=rf"'a\.{suffix}', expected shape \[{header.shape[0]}, "):
        opened(found, config)
    found[f"a.{suffix}"] = TensorHeader(header.dtype, (*header.shape, 2), "part-1.safetensors")
    with pytest.raises(
        CheckpointError, match=rf"part-1\.safetensors: tensor 'a\.{suffix}' has shape .*, 2\]"
    ):
        opened(found, config)
    found[f"a.{suffix}"] = TensorHeader("U8", header.shape, "part-1.safetensors")
    with pytest.raises(CheckpointError, match=rf"part-1\.safetensors: tensor 'a\.{suffix}' has dtype U8"):
        opened(found, config)


@pytest.mark.parametrize("group_size", [3, 48, 256])
def test_groups_that_do_not_divide_the_inputs_are_refused(group_size: int) -> None:
    with pytest.raises(
        CheckpointError, match=rf"'a\.qweight': its 128 inputs .* groups of {group_size} \(group"
    ):
        opened(HEADERS["gemm"], {**CONFIG, "group_size": group_size})


def test_groups_are_as_the_tensors_have_them_where_these_agree() -> None:
    for layout in PACKERS:
        opened(HEADERS[layout], {**CONFIG, "group_size": 64, "version": layout})
    found = dict(HEADERS["gemm"])
    found["a.scales"] = TensorHeader("F16", (2, 64), "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: tensor 'a\.qzeros' has shape \[4, 8\], expected \[1, 8\]"
    ):
        opened(found, {**CONFIG, "group_size": 128})
    found["a.qzeros"] = TensorHeader("I32", (8, 8), "model.safetensors")
    found["a.scales"] = TensorHeader("F16", (8, 64), "model.safetensors")  # groups of 16: no tool's
    with pytest.raises(CheckpointError, match=r"tensor 'a\.qzeros' has shape \[8, 8\], expected \[1, 8\]"):
        opened(found, {**CONFIG, "group_size": 128})


@pytest.mark.parametrize(
    ("layout", "inputs", "outputs"), [("gemm", 64, 12), ("gemv", 36, 8), ("gemv_fast", 96, 8)]
)
def test_sizes_that_no_word_fits_are_refused(layout: str, inputs: int, outputs: int) -> None:
    spec = LinearSpec(name="a", parts=(LinearPart("a", Span.whole(outputs)),), inp=Span.whole(inputs))
    need = QuantizationNeed(
        device="cpu", dtype="float32", config={**CONFIG, "version": layout, "group_size": -1}
    )
    quantization = AWQ(QuantizationInit(need=need, headers={}, kernels=KERNELS, device="meta"))
    with pytest.raises(CheckpointError, match=rf"the {layout} layout has (in|out)puts in multiples of"):
        quantization.linear(spec)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-2, 256),
    st.floats(),
    st.sampled_from(["", "gemm", "GEMV", "gemv_fast", "marlin", "4"]),
    st.lists(st.one_of(st.text(max_size=3), st.integers()), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)
KEYS = st.sampled_from(
    [*CONFIG, "w_bit", "q_group_size", "format", "modules_to_not_convert", "quant_method", "anything"]
)


@settings(deadline=None, max_examples=300)
@given(
    layout=st.sampled_from(sorted(PACKERS)),
    changes=st.dictionaries(KEYS, VALUES, max_size=3),
    tensors=st.dictionaries(
        st.sampled_from(["qweight", "qzeros", "scales", "scaled_zeros", "weight", "bias", "g_idx"]),
        st.one_of(
            st.none(),
            st.tuples(
                st.sampled_from(["I32", "I16", "F16", "F32", "U8", "F8_E4M3", "BOOL", "NEW"]),
                st.lists(st.integers(0, 1 << 40) | st.integers(0, 130), max_size=3),
            ),
        ),
        max_size=2,
    ),
)
def test_mutated_headers_and_settings_end_in_a_named_error(
    layout: str, changes: dict[str, Any], tensors: dict[str, tuple[str, list[int]] | None]
) -> None:
    found = dict(HEADERS[layout])
    for suffix, change in tensors.items():
        found.pop(f"a.{suffix}", None)
        if change is not None:
            found[f"a.{suffix}"] = TensorHeader(change[0], tuple(change[1]), "model.safetensors")
    message = "the checkpoint is read"
    try:
        opened(found, {**CONFIG, **changes})
    except (CheckpointError, UnsupportedModelError) as error:
        message = str(error)
    assert "'a." in message or "checkpoint" in message
