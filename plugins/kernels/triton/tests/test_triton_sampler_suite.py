"""The sampler's own suite, with the plugin's operations under it."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed, Sampler
from quire.ops import Kernels
from quire.testing.sampler import SamplerSuite
from quire_kernels_triton.kernels import TritonKernels
from quire_sampler_standard.sampler import StandardSampler


@pytest.mark.slow  # where kernels are interpreted
class TestStandardSamplerOnTriton(SamplerSuite):
    draws = 6000 if torch.cuda.is_available() else 30  # each is many programs, and interpreted slowly

    @pytest.fixture
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    @pytest.fixture
    def sampler_class(self) -> type[Sampler]:
        return StandardSampler

    @pytest.fixture
    def kernels(self, device: str) -> Kernels:
        return TritonKernels(KernelsInit(need=KernelsNeed(device=device, dtype="float32"), device=device))
