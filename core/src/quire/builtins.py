"""The plugins that ship inside the core. They register like anybody else's: through an entry point."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import KernelsSpec, ModelSourceSpec, QuantizationSpec, hookimpl


@hookimpl
def quire_kernels() -> Iterable[KernelsSpec]:
    """`reference` anywhere; `torch-cpu` packs linears once for oneDNN."""
    yield KernelsSpec(
        name="reference",
        api=1,
        target="quire.ops:Kernels",
        summary="Every operation in plain PyTorch, on any device",
    )
    yield KernelsSpec(
        name="torch-cpu",
        api=1,
        target="quire.ops.torch_cpu:TorchCpuKernels",
        devices=frozenset({"cpu"}),
        priority=10,
        summary="Plain PyTorch with linears packed once for oneDNN",
    )


@hookimpl
def quire_quantizations() -> Iterable[QuantizationSpec]:
    """Plain weights are a format like any other."""
    yield QuantizationSpec(
        name="none",
        api=1,
        target="quire.layers.unquantized:Unquantized",
        matches=frozenset({"none"}),
        summary="Plain fp32, fp16 and bf16 weights",
    )


@hookimpl
def quire_model_sources() -> Iterable[ModelSourceSpec]:
    """A directory wins over bundled names (priority 50), and those over the hub."""
    yield ModelSourceSpec(
        name="directory",
        api=1,
        target="quire.weights.sources.directory:DirectorySource",
        priority=100,
        summary="A local directory",
    )
    yield ModelSourceSpec(
        name="hub",
        api=1,
        target="quire.weights.sources.hub:HubSource",
        priority=0,
        summary="The Hugging Face hub",
    )
