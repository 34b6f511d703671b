"""Whether kernels can run here, and why not. Imports without Triton, which is asked for its absence too."""

from __future__ import annotations

from importlib.util import find_spec

import torch

INSTALLED: bool = find_spec("triton") is not None
"""Whether modules that hold kernels can be imported."""

OLDEST = (8, 0)
"""Compute capability: bf16 and asynchronous copies came with it."""


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU rather than compiling them (`TRITON_INTERPRET=1`).

    That is settled when a kernel is decorated, so it is asked of a kernel and not of the environment.
    """
    from triton.runtime.interpreter import InterpretedFunction

    from quire_kernels_triton.peak import chunk_peak_kernel

    return isinstance(chunk_peak_kernel, InterpretedFunction)


def unavailable(device: str) -> str | None:
    """The reason kernels cannot run on a type of device, or None."""
    if not INSTALLED:
        return "Triton is not installed: pip install 'triton>=3.6' (it is made for Linux)"
    if interpreted():
        return None if device == "cpu" else f"is interpreted (TRITON_INTERPRET=1): on cpu, not on {device}"
    if device != "cuda":
        return f"runs on cuda, not on {device}"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    found = torch.cuda.get_device_capability()
    if found < OLDEST:
        return f"needs compute capability {OLDEST[0]}.{OLDEST[1]}; this GPU has {found[0]}.{found[1]}"
    return None
