"""The engine's compute operations in plain PyTorch: the reference every kernels plugin is held to.

Importing this package imports torch. It knows tensors and nothing of requests, steps,
files or the models that call it.
"""

from __future__ import annotations

from quire.ops.kernels import Kernels
from quire.ops.linear import PackedLinear
from quire.ops.quantized import PackedQuantized, dequantize

__all__ = ["Kernels", "PackedLinear", "PackedQuantized", "dequantize"]
