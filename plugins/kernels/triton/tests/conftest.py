"""Without a GPU kernels are interpreted. Triton settles that when it is first imported."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from quire.testing.triton_interpreter import brisk_interpreter


@pytest.fixture(autouse=True)
def _arithmetic_as_on_a_gpu() -> Iterator[None]:
    """The interpreter computes in numpy, which warns of NaN and overflow; a GPU does not."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(autouse=True)
def _briskly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with brisk_interpreter(monkeypatch):
        yield
