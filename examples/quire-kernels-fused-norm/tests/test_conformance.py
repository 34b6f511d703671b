"""The whole contract, by one fixture."""

import pytest
from quire_kernels_fused_norm.kernels import FusedNormKernels

from quire.testing.kernels import KernelsSuite


class TestFusedNorm(KernelsSuite):
    """Runs every test of the kernels suite over this plugin."""

    @pytest.fixture
    def kernels_class(self):
        """The class under test."""
        return FusedNormKernels
