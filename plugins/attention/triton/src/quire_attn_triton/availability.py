"""Where the kernels run, and why not elsewhere. Imports Triton only to ask it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

from quire_attn_triton.work import Machine

_OLDEST = (3, 6)
_AMPERE, _ADA = (8, 0), (8, 9)
_INTERPRETED = Machine(multiprocessors=4, shared=227 << 10)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels that are decorated from now on (TRITON_INTERPRET=1)."""
    import triton

    enabled: bool = triton.knobs.runtime.interpret
    return enabled


def unavailable(device: str, *, fp8: bool) -> str | None:
    """Why the kernels cannot run, or None.

    Args:
        device: device type. A processor serves only where Triton's interpreter is on, as in tests.
        fp8: whether they have to convert to and from e4m3.
    """
    try:
        found = version("triton")
    except PackageNotFoundError:
        return "Triton is not installed: pip install 'triton>=3.6' (Linux)"
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        return f"needs Triton 3.6 or newer, not {found}"
    if interpreted():
        return None
    if device != "cuda":
        return f"runs on CUDA GPUs, on a {device} only in Triton's interpreter (TRITON_INTERPRET=1)"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA GPU"
    capability = torch.cuda.get_device_capability()
    if capability < _AMPERE:
        return f"needs a GPU of compute capability 8.0 or later, not {capability[0]}.{capability[1]}"
    if fp8 and capability < _ADA:
        return f"an fp8 cache needs compute capability 8.9 or later, not {capability[0]}.{capability[1]}"
    return None


def machine_of(device: str) -> Machine:
    """What of a torch device decides launches; a small GPU's numbers for a processor."""
    if torch.device(device).type != "cuda":
        return _INTERPRETED
    import triton

    index = torch.device(device).index
    index = torch.cuda.current_device() if index is None else index
    found = triton.runtime.driver.active.utils.get_device_properties(index)
    return Machine(multiprocessors=found["multiprocessor_count"], shared=found["max_shared_mem"])
