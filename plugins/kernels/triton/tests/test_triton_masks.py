"""Masked rows against the reference, bit for bit."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels
from quire_kernels_triton.kernels import TritonKernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INIT = KernelsInit(need=KernelsNeed(device=DEVICE, dtype="float32"), device=DEVICE)
OURS, REFERENCE = TritonKernels(INIT), Kernels(INIT)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 70, 5000])
@pytest.mark.parametrize("rows", [[0, 1, 2], [1], [0, 2], []])
def test_masked_rows_are_the_references(rows: list[int], vocab: int, dtype: torch.dtype) -> None:
    torch.manual_seed(vocab)
    wide = torch.randn(3, vocab + 5).to(DEVICE, dtype)
    wide[0, 0] = torch.nan
    logits = wide[:, :vocab]  # rows do not lie end to end
    before = wide.clone()
    bits = torch.randint(-(2**31), 2**31 - 1, (len(rows), (vocab + 31) // 32), dtype=torch.int32).to(DEVICE)
    found = OURS.apply_token_bitmask(logits, bits, rows)
    expected = REFERENCE.apply_token_bitmask(logits, bits, rows)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(wide, before, rtol=0, atol=0, equal_nan=True)
