"""The backend passes the conformance suite: interpreted on a processor, compiled on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from quire.contracts import AttentionBackend
from quire.testing.attention import AttentionSuite
from quire_attn_triton.backend import TritonAttention

# The interpreter computes with NumPy, which warns of NaN and infinities where a GPU goes on.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


class TestTritonAttention(AttentionSuite):
    dtypes: Sequence[str] = ("float32", "float16", *(["bfloat16"] if torch.cuda.is_available() else []))

    @pytest.fixture
    def backend_class(self) -> type[AttentionBackend]:
        return TritonAttention

    @pytest.fixture
    def device(self, device: str) -> str:
        return device
