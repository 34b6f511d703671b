"""What the quantized operations refuse, and how they say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed, QuantizedWeight
from quire.errors import PluginError
from quire.ops import Kernels

KERNELS = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
WEIGHT = QuantizedWeight(
    codes=torch.zeros(12, 5, dtype=torch.uint8), bits=4, scales=torch.ones(3, 5), zeros=torch.zeros(3, 5)
)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(WEIGHT, zeros=torch.zeros(3, 4)), r"zeros has shape \[3, 4\], expected \[3, 5\]"),
        (replace(WEIGHT, scales=torch.ones(3, 6)), r"scales has shape \[3, 6\]"),
        (replace(WEIGHT, bias=torch.zeros(4)), r"bias has shape \[4\]"),
        (replace(WEIGHT, group_index=torch.zeros(3, dtype=torch.int32)), "group_index has shape"),
        (replace(WEIGHT, permutation=torch.zeros(3, dtype=torch.int64)), "permutation has shape"),
        (replace(WEIGHT, scales=torch.ones(5, 5), zeros=None), "12 input rows do not divide into 5"),
        (replace(WEIGHT, scales=torch.ones(0, 5), zeros=None), "12 input rows do not divide into 0"),
        (replace(WEIGHT, activation="int8_per_token"), "use pack_w8a8"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(broken: QuantizedWeight, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        KERNELS.pack_wna16(broken)


def test_w8a8_needs_an_activation_scheme() -> None:
    with pytest.raises(PluginError, match="use pack_wna16"):
        KERNELS.pack_w8a8(WEIGHT)


@pytest.mark.parametrize(
    ("activation", "scale", "message"),
    [
        ("fp8_static", None, "'fp8_static' without an input_scale"),
        ("fp8_per_token", torch.tensor(1.0), "'fp8_per_token' with an input_scale"),
        ("fp8_static", torch.ones(1), r"input_scale has shape \[1\], expected \[\]"),
    ],
)
def test_a_static_scale_goes_with_its_scheme(
    activation: Literal["fp8_static", "fp8_per_token"], scale: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(PluginError, match=message):
        KERNELS.pack_w8a8(replace(WEIGHT, activation=activation, input_scale=scale))


def test_what_is_beyond_a_static_scale_is_its_largest_code() -> None:
    weight = replace(
        WEIGHT,
        codes=torch.eye(3, dtype=torch.int8),
        bits=8,
        scales=torch.ones(1, 3),
        zeros=None,
        activation="fp8_static",
        input_scale=torch.tensor(0.5),
    )
    packed = KERNELS.pack_w8a8(weight)
    x = torch.tensor([[1e4, -1e4, 0.5], [223.0, float("nan"), 0.0]])
    expected = torch.tensor([[224.0, -224.0, 0.5]])
    assert KERNELS.w8a8_linear(x, packed)[:1].equal(expected)
    assert KERNELS.w8a8_linear(x, packed)[1].isnan().all()
