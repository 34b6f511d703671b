"""The dtypes that the library computes in, and its numbers for them."""

from __future__ import annotations

import torch

DTYPES: dict[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1}
"""`DType` in `csrc/attention.h`."""
