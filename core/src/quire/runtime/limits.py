"""What this machine can do at most, right now: the rates that the share of the roofline is measured against.

Source of the model: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (2009).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from quire.ops import Kernels

_BUFFER = 2**30
_SIZE = 2048


@dataclass(frozen=True, slots=True)
class Limits:
    """The machine's rates.

    Attributes:
        read: bytes per second at which all threads read memory.
        multiply: floating-point operations per second of a large matrix product.
    """

    read: float
    multiply: float

    def share(self, nbytes: float, flops: float, seconds: float) -> float:
        """The least time that the work could take, as a share of the time it took."""
        return max(nbytes / self.read, flops / self.multiply) / seconds if seconds > 0 else 0.0


@torch.inference_mode()
def measure_limits(
    kernels: Kernels, dtype: torch.dtype, *, buffer: int = _BUFFER, size: int = _SIZE
) -> Limits:
    """Read a buffer that fits few caches, and multiply square matrices: the best of some tries each.

    Args:
        kernels: whose linear is tried beside PyTorch's; the faster one is the limit.
        dtype: of the matrices.
        buffer: bytes to read.
        size: rows and columns of the matrices.
    """
    memory = torch.ones(buffer // 4, dtype=torch.float32)
    read = buffer / _best(memory.sum, 4)
    x = torch.randn(size, size).to(dtype)
    packed = kernels.pack_linear(torch.randn(size, size).to(dtype))
    products = (lambda: kernels.linear(x, packed), lambda: x @ x)
    return Limits(read, 2.0 * size**3 / min(_best(product, 6) for product in products))


def _best(work: Callable[[], object], tries: int) -> float:
    """Seconds of the quickest try; the first one does not count."""
    best = float("inf")
    for attempt in range(tries + 1):
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        if attempt:
            best = min(best, seconds)
    return best
