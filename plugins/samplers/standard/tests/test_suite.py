"""The standard sampler passes the contract suite, by the subclass any sampler would use."""

from __future__ import annotations

import pytest

from quire.contracts import Sampler
from quire.testing.sampler import SamplerSuite
from quire_sampler_standard.sampler import StandardSampler


class TestStandardSampler(SamplerSuite):
    @pytest.fixture
    def sampler_class(self) -> type[Sampler]:
        return StandardSampler
