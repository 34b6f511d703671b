"""The plugins that ship inside the core. They register like anybody else's: through an entry point."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import CommandSpec, KernelsSpec, ModelSourceSpec, QuantizationSpec, hookimpl


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


@hookimpl
def quire_commands() -> Iterable[CommandSpec]:
    """The core's commands, in the order in which a newcomer meets them."""
    for order, name, summary in (
        (10, "generate", "Continue a prompt."),
        (20, "chat", "Talk with a model in the terminal."),
        (25, "complete", "Continue a prompt on a running server."),
        (30, "plugins", "List the installed plugins."),
        (40, "doctor", "Examine this machine, and what would be chosen on it."),
        (45, "plan", "Tell what a model would take, and what would fit."),
        (50, "config", "Show, check or describe the configuration."),
        (90, "completion", "Print the script that completes commands in a shell."),
    ):
        yield CommandSpec(name=name, api=1, target=f"quire.cli.{name}:command", summary=summary, order=order)
    yield CommandSpec(
        name="throughput",
        api=1,
        target="quire.cli.bench_throughput:command",
        group="bench",
        summary="All requests at once: tokens per second.",
        order=10,
    )
    yield CommandSpec(
        name="latency",
        api=1,
        target="quire.cli.bench_latency:command",
        group="bench",
        summary="One request at a time: time to first token, and between tokens.",
        order=20,
    )
    yield CommandSpec(
        name="profile",
        api=1,
        target="quire.cli.bench_profile:command",
        summary="Where a step's time goes, and how near each part is to the machine's limit.",
        group="bench",
        order=25,
    )
