"""What any share of a module decodes to, and which values are refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from quire.contracts import LinearPart, QuantizedWeight, Span
from quire.errors import CheckpointError
from quire.ops.quantized import dequantize
from quire_quant_compressed_tensors.modules import MODULES
from quire_quant_compressed_tensors.schemes import Scheme
from quire_quant_compressed_tensors.testing import headers_of, pack, plain

NAME = "model.layers.0.mlp.up_proj"
FP8 = torch.float8_e4m3fn


@st.composite
def spans(draw: st.DrawFn, full: int) -> Span:
    """Any part of an axis, the whole among them."""
    if draw(st.booleans()):
        return Span.whole(full)
    start = draw(st.integers(0, full - 1))
    return Span(start, draw(st.integers(start + 1, full)), full)


def decoded(
    tensors: Mapping[str, torch.Tensor], scheme: Scheme, out: Span | None = None, inp: Span | None = None
) -> QuantizedWeight:
    """A worker's part of a module, read as the loader would."""
    outputs, inputs = (
        tensors["weight_shape"].tolist() if "weight_shape" in tensors else tensors["weight"].shape
    )
    part = LinearPart(NAME, out or Span.whole(outputs))
    module = MODULES[scheme.kind](part, inp or Span.whole(inputs), headers_of(NAME, tensors), scheme)
    raw = {}
    for tensor in module.tensors():
        cut = tuple(slice(span.start, span.stop) for span in tensor.take)
        raw[tensor.suffix] = tensors[tensor.suffix][cut].to(tensor.dtype)
    return module.decode(raw)


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([4, 8]),
    group_size=st.sampled_from([None, 8, 24]),
    symmetric=st.booleans(),
    indexed=st.booleans(),
    outputs=st.integers(1, 20),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_share_decodes_to_what_was_packed(
    bits: int,
    group_size: int | None,
    symmetric: bool,
    indexed: bool,
    outputs: int,
    seed: int,
    data: st.DataObject,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = 3 * (group_size or 7)
    size = group_size or inputs
    order = torch.randperm(inputs, generator=generator) // size if indexed else None
    stored = pack(
        torch.randn(outputs, inputs, generator=generator),
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        order=order,
    )
    out, inp = data.draw(spans(outputs), "outputs"), data.draw(spans(inputs), "inputs")
    scheme = Scheme("g", "packed", bits, group_size, symmetric=symmetric, indexed=indexed)
    made = decoded(stored.tensors, scheme, out, inp)
    expected = stored.weight[out.start : out.stop, inp.start : inp.stop].t()
    torch.testing.assert_close(dequantize(made), expected, rtol=1e-6, atol=1e-6)
    if made.permutation is not None:
        assert made.group_index is not None
        assert (made.group_index[made.permutation].diff() >= 0).all()


def test_symmetric_bytes_are_centred() -> None:
    made = decoded(pack(torch.randn(4, 8), bits=8, group_size=None).tensors, Scheme("g", "packed", 8))
    assert made.zeros is None
    assert made.codes.dtype == torch.int8


@pytest.mark.parametrize("groups_are", ["in order", "minus one"])
def test_an_index_that_is_in_order_is_none(groups_are: str) -> None:
    stored = pack(torch.randn(4, 16), bits=4, group_size=8, order=torch.arange(16) // 8)
    tensors = dict(stored.tensors)
    if groups_are == "minus one":
        tensors["weight_g_idx"] = torch.full((16,), -1, dtype=torch.int32)
    made = decoded(tensors, Scheme("g", "packed", 4, 8, indexed=True))
    assert made.group_index is None
    assert made.permutation is None
    torch.testing.assert_close(dequantize(made), stored.weight.t())


def test_an_index_in_the_file_counts_though_the_settings_do_not_say_so() -> None:
    stored = pack(torch.randn(4, 16), bits=4, group_size=8, order=torch.arange(16) % 2)
    torch.testing.assert_close(
        dequantize(decoded(stored.tensors, Scheme("g", "packed", 4, 8))), stored.weight.t()
    )


@pytest.mark.parametrize("value", [2, -1, 1 << 30])
def test_an_index_out_of_range_is_refused(value: int) -> None:
    tensors = dict(pack(torch.randn(4, 16), bits=4, group_size=8, order=torch.arange(16) % 2).tensors)
    tensors["weight_g_idx"][5] = value
    with pytest.raises(
        CheckpointError,
        match=rf"model\.safetensors: tensor '{NAME}\.weight_g_idx' has {value} at 5, expected a group",
    ):
        decoded(tensors, Scheme("g", "packed", 4, 8, indexed=True))


def test_another_modules_shape_is_refused() -> None:
    tensors = dict(pack(torch.randn(4, 16), bits=4, group_size=8).tensors)
    tensors["weight_shape"] = torch.tensor([16, 4])
    module = MODULES["packed"](
        LinearPart(NAME, Span.whole(4)),
        Span.whole(16),
        headers_of(NAME, tensors),
        Scheme("g", "packed", 4, 8),
    )
    with pytest.raises(CheckpointError, match=r"weight_shape' says \[16, 4\], expected \[4, 16\]"):
        module.decode({**tensors, "weight_scale": tensors["weight_scale"].float()})


@pytest.mark.parametrize(("dtype", "kind"), [(torch.int8, "int8"), (FP8, "fp8")])
@pytest.mark.parametrize(("per_tensor", "rank"), [(True, 0), (True, 1), (True, 2), (False, 1), (False, 2)])
def test_scales_of_any_form(dtype: torch.dtype, kind: str, per_tensor: bool, rank: int) -> None:
    stored = plain(torch.randn(6, 10), dtype, per_tensor=per_tensor)
    scale = stored.tensors["weight_scale"]
    tensors = {**stored.tensors, "weight_scale": scale.reshape([1] * rank if per_tensor else [6, 1][:rank])}
    scheme = Scheme("g", kind, 8, per_tensor=per_tensor)  # type: ignore[arg-type] # a plain string keeps it short
    made = decoded(tensors, scheme, Span(2, 5, 6), Span(4, 10, 10))
    assert made.codes.dtype == dtype
    torch.testing.assert_close(dequantize(made), stored.weight[2:5, 4:10].t())


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_a_weight_of_nan_is_refused(code: int) -> None:
    tensors = dict(plain(torch.randn(4, 8), FP8).tensors)
    tensors["weight"].view(torch.uint8)[2, 3] = code
    with pytest.raises(CheckpointError, match=rf"tensor '{NAME}\.weight' holds nan at \[2, 3\]"):
        decoded(tensors, Scheme("g", "fp8", 8))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_static_scale_of_any_form(shape: tuple[int, ...]) -> None:
    tensors = dict(plain(torch.randn(6, 10), FP8, input_scale=0.25).tensors)
    tensors["input_scale"] = tensors["input_scale"].reshape(shape)
    made = decoded(tensors, Scheme("g", "fp8", 8, static=True), Span(2, 5, 6), Span(4, 10, 10))
    assert made.activation == "fp8_static"
    assert made.input_scale is not None
    assert made.input_scale.equal(torch.tensor(0.25))


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_static_scale_that_nothing_can_be_divided_by_is_refused(scale: float) -> None:
    tensors = plain(torch.randn(4, 8), FP8, input_scale=scale).tensors
    with pytest.raises(CheckpointError, match=rf"input_scale' is {scale}, expected a positive number"):
        decoded(tensors, Scheme("g", "fp8", 8, static=True))


@pytest.mark.parametrize(
    ("suffix", "tensor", "message"),
    [
        ("weight_packed", None, r"Missing tensor '.*weight_packed', expected shape \[8, 4\]"),
        ("weight_zero_point", None, r"Missing tensor '.*weight_zero_point', expected shape \[1, 2\]"),
        ("weight_shape", None, r"Missing tensor '.*weight_shape', expected shape \[2\]"),
        ("weight_packed", torch.zeros(8, 8, dtype=torch.int32), r"has shape \[8, 8\], expected \[8, 4\]"),
        ("weight_packed", torch.zeros(8, 4), r"has dtype F32, expected I32"),
        ("weight_scale", torch.zeros(8, 4), r"has shape \[8, 4\], expected \[8, 2\]"),
        ("weight_zero_point", torch.zeros(8, 2, dtype=torch.int8), r"has shape \[8, 2\], expected \[1, 2\]"),
    ],
)
def test_what_the_headers_tell_is_refused_at_once(
    suffix: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors = dict(pack(torch.randn(8, 32), bits=4, group_size=16, symmetric=False).tensors)
    del tensors[suffix]
    if tensor is not None:
        tensors[suffix] = tensor
    scheme = Scheme("g", "packed", 4, 16, symmetric=False)
    with pytest.raises(CheckpointError, match=message):
        MODULES["packed"](LinearPart(NAME, Span.whole(8)), Span.whole(32), headers_of(NAME, tensors), scheme)


@pytest.mark.parametrize("size", [5, 64])
def test_groups_that_do_not_divide_the_inputs_are_refused(size: int) -> None:
    tensors = pack(torch.randn(8, 32), bits=4, group_size=16).tensors
    with pytest.raises(
        CheckpointError, match=rf"32 inputs do not divide into groups of {size} \(config_groups\.g"
    ):
        MODULES["packed"](
            LinearPart(NAME, Span.whole(8)),
            Span.whole(32),
            headers_of(NAME, tensors),
            Scheme("g", "packed", 4, size),
        )
