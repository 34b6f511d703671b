"""The conformance kit: interpreted on a CPU, compiled where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from quire.ops import Kernels
from quire.testing.kernels import KernelsSuite
from quire_kernels_triton.kernels import TritonKernels

pytestmark = pytest.mark.gpu


class TestTritonKernels(KernelsSuite):
    # The interpreter cuts bf16 off where a GPU rounds, and cuBLAS takes the bias in bf16.
    further_roundings = 1

    @pytest.fixture
    def kernels_class(self) -> type[Kernels]:
        return TritonKernels

    @pytest.fixture
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"
