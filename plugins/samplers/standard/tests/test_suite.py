"""The standard sampler passes the contract suite, by the subclass any sampler would use.

Beside the reference's kernels, which draw nothing inside a graph, also with the same ones where they may:
no graph is captured here.
"""

from __future__ import annotations

import pytest

from quire.contracts import KernelsInit, KernelsNeed, Sampler
from quire.ops import Kernels
from quire.testing.captured_draw import CapturedDrawChecks
from quire.testing.sampler import SamplerSuite
from quire.testing.sampler_bench import Bench
from quire_sampler_standard.sampler import StandardSampler


class TestStandardSampler(SamplerSuite):
    @pytest.fixture
    def sampler_class(self) -> type[Sampler]:
        return StandardSampler


class Capturing(Kernels):
    captures_sampling = True


class TestStandardSamplerInCapturedSteps(CapturedDrawChecks):
    @pytest.fixture
    def bench(self) -> Bench:
        kernels = Capturing(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
        return Bench(StandardSampler, kernels, "cpu")
