"""The part of `KernelsSuite` that looks closer at products with weight-only quantized layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from quire.ops import Kernels
from quire.testing.quantized_weights import by_definition, quantized

_TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Wna16Checks:
    """Mixed into `KernelsSuite`."""

    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_wna16_of_long_groups_and_views(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype], bits: int, symmetric: bool
    ) -> None:
        """Groups of 64 rows, as files have them, without a bias; and rows that lie apart."""
        weight = replace(quantized("grouped", bits, device, rows=256), bias=None)
        if symmetric:
            weight = replace(weight, zeros=torch.full((4, 40), 1 << (bits - 1), device=device))
        packed, dense = kernels.pack_wna16(weight), by_definition(weight)
        for dtype in each_dtype:
            x = torch.randn(140, 300).to(device, dtype)[:, 20:276]
            for some in (x[:70], x[::2], x[3:4]):
                out, limit = kernels.wna16_linear(some, packed), _TOLERANCES[dtype]
                torch.testing.assert_close(out.double(), some.double() @ dense, atol=limit, rtol=limit)
