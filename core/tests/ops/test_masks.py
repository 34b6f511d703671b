"""Masks over the vocabulary, against a loop."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels


@pytest.mark.parametrize("rows", [[0, 1, 2], [1], [0, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_rows_keep_what_is_legal(rows: list[int], dtype: torch.dtype) -> None:
    kernels = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
    torch.manual_seed(0)
    logits = torch.randn(3, 70).to(dtype)
    before = logits.clone()
    bits = torch.randint(-(2**31), 2**31 - 1, (len(rows), 3), dtype=torch.int32)
    masked = kernels.apply_token_bitmask(logits, bits, rows)
    for row in range(3):
        for token in range(70):
            legal = row not in rows or bool(bits[rows.index(row), token // 32] >> (token % 32) & 1)
            assert masked[row, token] == (before[row, token] if legal else -torch.inf)
    assert torch.equal(logits, before)
