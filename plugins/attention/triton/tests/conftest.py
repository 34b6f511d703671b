"""Without a GPU the kernels run in Triton's interpreter; on one they are compiled.

Triton decides when it is imported, so it is told before: conftest files are read before any test module is.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def device() -> str:
    """Torch device string the kernels run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"
