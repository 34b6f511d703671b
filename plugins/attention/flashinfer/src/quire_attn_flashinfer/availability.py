"""Where FlashInfer runs, and why not elsewhere. Imports nothing of it: that takes seconds."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from quire_attn_flashinfer import REQUIREMENT

_AMPERE = (8, 0)


def unavailable(device: str) -> str | None:
    """Why FlashInfer cannot run on a device type, or None."""
    if find_spec("flashinfer") is None:
        return f"FlashInfer is not installed: pip install '{REQUIREMENT}'"
    if device != "cuda":
        return f"runs on CUDA GPUs, not on a {device}"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA GPU"
    capability = torch.cuda.get_device_capability()
    if capability < _AMPERE:
        return f"needs a GPU of compute capability 8.0 or later, not {capability[0]}.{capability[1]}"
    return None
