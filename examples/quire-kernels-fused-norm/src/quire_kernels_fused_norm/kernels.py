"""RMSNorm in one operation instead of five."""

import torch

from quire.ops import Kernels


class FusedNormKernels(Kernels):
    """The reference kernels with another RMSNorm."""

    def rms_norm(self, x, weight, eps):
        """See `quire.ops.Kernels.rms_norm`."""
        return torch.nn.functional.rms_norm(x, weight.shape, weight, eps)
