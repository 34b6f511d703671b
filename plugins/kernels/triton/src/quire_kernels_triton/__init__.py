"""Quire's kernels in Triton for NVIDIA GPUs. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import KernelsSpec, hookimpl


@hookimpl
def quire_kernels() -> Iterable[KernelsSpec]:
    """`triton`: chosen on CUDA devices wherever Triton is installed."""
    yield KernelsSpec(
        name="triton",
        api=1,
        target="quire_kernels_triton.kernels:TritonKernels",
        devices=frozenset({"cuda"}),
        priority=50,
        summary="Triton: norms, rotary, gates, gathers, quantized products, sampling on the device",
    )
