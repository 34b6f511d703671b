"""What the three layouts decode to, against packers that place one field at a time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import LinearPart, Span, TensorHeader
from quire.ops.quantized import dequantize
from quire_quant_awq.layouts import LAYOUTS, Layout
from quire_quant_awq.testing import PACKERS, headers_of

NAME = "model.layers.0.mlp.up_proj"


def opened(
    stored: Mapping[str, torch.Tensor], layout: str, out: Span, inp: Span, group_size: int
) -> tuple[Layout, dict[str, torch.Tensor]]:
    """A worker's part of a module, and what is read of it."""
    module = LAYOUTS[layout](
        LinearPart(NAME, out), inp, headers_of(NAME, stored), group_size=group_size, zero_point=True
    )
    module.check_headers()
    raw = {}
    for tensor in module.tensors():
        cut = tuple(slice(span.start, span.stop) for span in tensor.take)
        raw[tensor.suffix] = stored[tensor.suffix][cut].to(tensor.dtype)
    return module, raw


@settings(deadline=None, max_examples=40)
@given(
    layout=st.sampled_from(sorted(PACKERS)),
    group_size=st.sampled_from([32, 64, 128]),
    groups=st.sampled_from([2, 4, 10]),
    outputs=st.sampled_from([8, 24]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_any_share_of_any_layout_decodes_to_what_was_packed(
    layout: str, group_size: int, groups: int, outputs: int, seed: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = group_size * groups
    codes = torch.randint(16, (inputs, outputs), generator=generator)
    zeros = torch.randint(16, (groups, outputs), generator=generator)
    scales = torch.rand(groups, outputs, generator=generator).half() + 0.01
    out = data.draw(spans(outputs), "outputs")
    inp = data.draw(spans(inputs), "inputs")
    module, raw = opened(PACKERS[layout](codes, zeros, scales), layout, out, inp, group_size)
    made = module.decode(raw)
    assert torch.equal(made.codes.long(), codes[inp.start : inp.stop, out.start : out.stop])
    assert made.codes.dtype == torch.uint8
    each = scales.float().repeat_interleave(group_size, 0) * (codes - zeros.repeat_interleave(group_size, 0))
    # gemv_fast has the product of scale and zero, rounded to fp16.
    rounding = 0.0 if layout != "gemv_fast" else 2.0**-11 * 16 * 1.01
    torch.testing.assert_close(
        dequantize(made), each[inp.start : inp.stop, out.start : out.stop], rtol=1e-5, atol=1e-5 + rounding
    )


@st.composite
def spans(draw: st.DrawFn, full: int) -> Span:
    """Any part of an axis, the whole among them."""
    if draw(st.booleans()):
        return Span.whole(full)
    start = draw(st.integers(0, full - 1))
    return Span(start, draw(st.integers(start + 1, full)), full)


def test_gemv_fast_keeps_the_products_of_the_file() -> None:
    codes = torch.randint(16, (128, 8))
    stored = PACKERS["gemv_fast"](codes, torch.full((1, 8), 7), torch.full((1, 8), 0.0123))
    module, raw = opened(stored, "gemv_fast", Span.whole(8), Span.whole(128), -1)
    expected = codes.double() * stored["scales"][:1].double() + stored["qzeros"][:1].double()
    torch.testing.assert_close(dequantize(module.decode(raw)).double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("layout", sorted(PACKERS))
def test_a_scale_of_zero_is_a_weight_of_zero(layout: str) -> None:
    stored = PACKERS[layout](torch.full((128, 8), 9), torch.full((1, 8), 5), torch.zeros(1, 8))
    module, raw = opened(stored, layout, Span.whole(8), Span.whole(128), 128)
    assert torch.equal(dequantize(module.decode(raw)), torch.zeros(128, 8))


@pytest.mark.parametrize("layout", ["gemm", "gemv", "gemv_fast"])
def test_symmetric_weights_need_no_zeros_in_the_file(layout: str) -> None:
    codes = torch.randint(16, (128, 8))
    stored = PACKERS[layout](codes, torch.full((2, 8), 8), torch.ones(2, 8))
    del stored["qzeros"]
    headers: dict[str, TensorHeader] = headers_of(NAME, stored)
    module = LAYOUTS[layout](
        LinearPart(NAME, Span.whole(8)), Span.whole(128), headers, group_size=64, zero_point=False
    )
    module.check_headers()
    raw = {
        name: tensor[: 2 if name == "scales" and layout != "gemv" else None]
        for name, tensor in stored.items()
    }
    if layout == "gemv":
        raw["scales"] = raw["scales"][:, :2]
    assert torch.equal(dequantize(module.decode(raw)), codes.float() - 8)
