"""The part of `KernelsSuite` that holds products of quantized weights with quantized activations."""

from __future__ import annotations

import pytest
import torch

from quire.ops import Kernels
from quire.testing.quantized_activations import quantized_and_back, settled
from quire.testing.quantized_weights import W8A8, by_definition, quantized

_LEADING = [(0,), (1,), (5,), (2, 3), (0, 4), (33,)]
"""Shapes in front of the feature axis; empty ones included."""

_ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Half the distance of neighbours, relative: what rounding a result once leaves."""

_SUMS = 2e-6
"""What summing in fp32, in any order, may leave, as a share of the magnitudes that are summed."""

_CODES = {"int8_per_token": 0.5 / 127, "fp8_per_token": 2.0**-4, "fp8_static": 2.0**-4}
"""How far a code may be from what it stands for, as a share of a token's largest magnitude."""


class W8A8Checks:
    """Mixed into `KernelsSuite`.

    Attributes:
        further_roundings: of the result and of the bias, beside rounding the result once; to the nearest.
    """

    further_roundings = 0

    @pytest.mark.parametrize(("form", "activation"), W8A8)
    def test_w8a8_is_the_exact_product_of_the_codes(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype], form: str, activation: str
    ) -> None:
        """Quantizing is arithmetic with one right answer: what is left is to round the result."""
        weight = quantized(form, 8, device, activation)
        packed = kernels.pack_w8a8(weight)
        assert weight.bias is not None
        dense, bias = by_definition(weight), weight.bias.double()
        for dtype in each_dtype:
            for leading in _LEADING:
                x = settled(_tokens(leading, dense.shape[0], device, dtype), activation, weight.input_scale)
                inside = quantized_and_back(x, activation, weight.input_scale)
                exact = inside @ dense + bias
                magnitude = inside.abs() @ dense.abs() + bias.abs()
                off = (kernels.w8a8_linear(x, packed).double() - exact).abs()
                rounded = exact.abs() + self.further_roundings * (exact.abs() + bias.abs())
                assert (off <= _SUMS * magnitude + 1.01 * _ROUNDOFF[dtype] * rounded).all()

    @pytest.mark.parametrize(("form", "activation"), W8A8)
    def test_w8a8_is_near_the_product_of_what_was_quantized(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype], form: str, activation: str
    ) -> None:
        """Tokens of very different size: one dynamic scale for all of them would lose the small ones."""
        weight = quantized(form, 8, device, activation)
        packed = kernels.pack_w8a8(weight)
        assert weight.bias is not None
        dense, bias = by_definition(weight), weight.bias.double()
        for dtype in each_dtype:
            for leading in _LEADING:
                x = _tokens(leading, dense.shape[0], device, dtype)
                out = kernels.w8a8_linear(x, packed).double()
                largest = x.double().abs().amax(-1, keepdim=True)
                slack = _CODES[activation] * largest * dense.abs().sum(0)
                slack = slack + 1e-5 + 2 * _ROUNDOFF[dtype] * out.abs()
                assert ((out - (x.double() @ dense + bias)).abs() <= slack).all()
            zeros = torch.zeros(2, dense.shape[0], dtype=dtype, device=device)
            torch.testing.assert_close(kernels.w8a8_linear(zeros, packed), bias.expand(2, -1).to(dtype))


def _tokens(leading: tuple[int, ...], width: int, device: str, dtype: torch.dtype) -> torch.Tensor:
    """`[*leading, width]`, the last tokens a thousand times the first."""
    x = torch.randn(*leading, width) * torch.logspace(-2, 1, leading[-1]).unsqueeze(-1)
    return x.to(device, dtype)
