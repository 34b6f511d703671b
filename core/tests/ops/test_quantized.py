"""What the quantized operations refuse, and how they say so."""

from __future__ import annotations

from dataclasses import replace

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
