"""Quire's kernels in C++ for processors. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import KernelsSpec, hookimpl


@hookimpl
def quire_kernels() -> Iterable[KernelsSpec]:
    """`cpu`: chosen on processors wherever its library was compiled."""
    yield KernelsSpec(
        name="cpu",
        api=1,
        target="quire_kernels_cpu.kernels:CpuKernels",
        options="quire_kernels_cpu.options:CpuKernelsOptions",
        devices=frozenset({"cpu"}),
        priority=50,
        summary="C++ for AMX, AVX-512, AVX2: packed linears, norms, whole decoder layers",
    )
