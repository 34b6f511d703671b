"""The start-up report: what took how long, where the memory went, and what was chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from quire._config_speculation import Speculation
from quire.engine.planning.memory import MemoryBudget
from quire.engine.units import size
from quire.plugin_plan import PluginPlan
from quire.runtime.dtypes import torch_dtype
from quire.runtime.graphs import GraphReport


class Stopwatch:
    """Times the phases of start-up."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, float]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        start = time.perf_counter()
        yield
        self.phases.append((name, time.perf_counter() - start))


@dataclass(frozen=True, slots=True)
class StartupReport:
    """What a user wants to know once the engine is up.

    Attributes:
        model, source: the model, and where its files came from.
        architecture, dtype, device: what runs, in what, on what.
        num_parameters: elements of all weights.
        memory: the byte budget.
        plugins: what was chosen and why.
        measured_rows: rows of the profile run.
        graphs: what was captured; None if nothing was to be.
        graphs_set_aside: bytes that were counted on for them.
        threads: how many compute on the CPU, and why; empty on other devices.
        notes: what was understood otherwise than it was written.
        speculation: who proposes tokens ahead, None if nobody does.
        phases: (name, seconds), in order.
    """

    model: str
    source: str
    architecture: str
    dtype: str
    device: str
    num_parameters: int
    memory: MemoryBudget
    plugins: PluginPlan
    measured_rows: int
    graphs: GraphReport | None = None
    graphs_set_aside: int = 0
    threads: str = ""
    notes: tuple[str, ...] = ()
    speculation: Speculation | None = None
    phases: list[tuple[str, float]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as text, a line each for model, plugins, threads, memory, capacity and time."""
        memory = self.memory
        chosen = ", ".join(
            f"{role.replace('/0', '')} {plugin.name}"
            for role, plugin in self.plugins.plugins.items()
            if role != "model"
        )
        times = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.phases)
        total = sum(seconds for _, seconds in self.phases)
        captured = f"graphs {size(memory.graphs)}, " if self.graphs is not None else ""
        rows = {
            "model": f"{self.model} ({self.source}): {self.architecture}, "
            f"{self.num_parameters / 1e6:.1f} M parameters, {self.dtype} on {self.device}",
            "plugins": chosen,
            "drafts": "" if self.speculation is None else self.speculation.described,
            "note": "; ".join(self.notes),
            "threads": self.threads,
            "memory": f"weights {size(memory.weights)}{self._saved()}, "
            f"activations {size(memory.activations)} "
            f"(from a step of {self.measured_rows} tokens), {captured}KV cache {size(memory.kv)}, "
            f"left {size(memory.left)} of {size(memory.total)}",
            "graphs": "" if self.graphs is None else _of_graphs(self.graphs, self.graphs_set_aside),
            "capacity": f"{memory.tokens} tokens in {memory.num_blocks - 1} blocks; "
            f"context {memory.max_model_len}; {memory.concurrency:.1f} sequences of that length at a time",
            "start-up": f"{total:.2f} s: {times}",
        }
        return [f"{name:<9} {text}" for name, text in rows.items() if text]

    def _saved(self) -> str:
        """What quantization saves, next to all parameters in the compute dtype."""
        quantization = self.plugins.plugins.get("quantization")
        saved = self.num_parameters * torch_dtype(self.dtype).itemsize - self.memory.weights
        if quantization is None or quantization.name == "none" or saved <= 0:
            return ""
        return f" ({size(saved)} less than in {self.dtype})"


def _of_graphs(graphs: GraphReport, set_aside: int) -> str:
    if graphs.problem:
        return f"none: {graphs.problem}"
    least, most = graphs.sizes[0], graphs.sizes[-1]
    held = size(graphs.nbytes)
    sampling = f"without sampling ({graphs.uncaptured})" if graphs.uncaptured else "sampling included"
    text = f"{len(graphs.sizes)} of decode steps, of {least} to {most} requests, {sampling}; they hold {held}"
    if graphs.nbytes > set_aside:
        text += f", more than the {size(set_aside)} set aside: steps have that much less"
    return text
