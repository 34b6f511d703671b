"""Slicing is invisible in the result, and bounds what is widened to fp32."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels, logprobs


@pytest.mark.parametrize("elements", [1, 100, 1000])
def test_slices_of_any_size_give_the_same(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
    logits, ids = torch.randn(23, 50), torch.randint(50, (23,))
    whole = kernels.log_softmax_gather(logits, ids, 4)
    monkeypatch.setattr(logprobs, "_SLICE_ELEMENTS", elements)
    for sliced, expected in zip(kernels.log_softmax_gather(logits, ids, 4), whole, strict=True):
        torch.testing.assert_close(sliced, expected)
