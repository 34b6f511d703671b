"""The standard sampler passes the contract suite, by the subclass any sampler would use."""

from __future__ import annotations

import pytest

from quire.contracts import KernelsInit, KernelsNeed, Sampler
from quire.ops import Kernels
from quire.testing.sampler import SamplerSuite
from quire_sampler_standard.sampler import StandardSampler


class Capturing(Kernels):
    """The reference, said to draw in captured steps: where no graph is captured, it can."""

    captures_sampling = True


class TestStandardSampler(SamplerSuite):
    @pytest.fixture
    def sampler_class(self) -> type[Sampler]:
        return StandardSampler

    @pytest.fixture
    def kernels(self, device: str) -> Kernels:
        return Capturing(KernelsInit(need=KernelsNeed(device=device, dtype="float32"), device=device))
