"""The least time that work takes on a machine: of its bytes and of its operations, whichever is longer.

    least = max(bytes / copy bandwidth, operations / GEMM rate)

Both rates are measured in the same run. A copy reads and writes, and both count; a kernel that only reads may
pass it by a little, so that shares slightly above 1 are possible (Williams et al., Roofline, 2009).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Limits(BaseModel):
    """What the device reached.

    Attributes:
        copy_gb_s: 10^9 bytes per second, read and written, of a large copy on the device.
        gemm_tflop_s: 10^12 operations per second of a large bf16 matrix product.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    copy_gb_s: float
    gemm_tflop_s: float

    def least_seconds(self, nbytes: float, flops: float = 0.0) -> float:
        """The formula above."""
        return max(nbytes / (1e9 * self.copy_gb_s), flops / (1e12 * self.gemm_tflop_s))

    def share(self, seconds: float, nbytes: float, flops: float = 0.0) -> float:
        """Of the time taken, what had to be: 1 is the limit."""
        return self.least_seconds(nbytes, flops) / seconds
