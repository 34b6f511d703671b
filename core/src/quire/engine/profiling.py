"""Where a step's time goes: runs a workload on an engine of its own, with probes, and adds up. CPU only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch

from quire.engine.assembly import Engine
from quire.engine.client import InProcessClient
from quire.engine.inputs import Prompt
from quire.errors import ConfigError, EngineError
from quire.executors.in_process import InProcessExecutor
from quire.plan import StepPlan
from quire.runtime.limits import Limits, measure_limits
from quire.runtime.probes import LAYER_CALLS, probes, settle, wrapped
from quire.runtime.spans import Span, Spans
from quire.sampling_params import SamplingParams

OUTSIDE = (
    "scheduler",
    "batch building",
    "block clearing",
    "attention plan",
    "sampling",
    "results",
    "detokenizing",
    LAYER_CALLS,
    "other Python",
)
"""Kinds that are no kernels of the model; everything else is."""

_FILLING = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of operation, per step.

    Attributes:
        kind: its name.
        ms: milliseconds.
        share: of the step.
        calls: how often.
        mbytes, gflops: megabytes moved and 10^9 operations done, at least; 0 where nothing is counted.
        roofline: the least time for that on this machine, as a share of the time taken; None without work.
        kernel: False for what is outside of the model's kernels.
    """

    kind: str
    ms: float
    share: float
    calls: float
    mbytes: float
    gflops: float
    roofline: float | None
    kernel: bool


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Steps of one sort.

    Attributes:
        steps: how many were profiled.
        tokens: computed per step.
        step_ms: time of a step, the sum of the rows.
        outside_ms, outside_share: of it what is outside of kernels.
        wall_ms: time of such a step without probes, its text included.
        tokens_per_second: computed, by that time.
        rows: kernels first, each part by time.
    """

    steps: int
    tokens: float
    step_ms: float
    outside_ms: float
    outside_share: float
    wall_ms: float
    tokens_per_second: float
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """What `quire bench --profile` prints.

    Attributes:
        threads: that computed, and why so many.
        read_gbytes_per_second, gflops_per_second: the machine's limits in this run.
        decode, prefill: steps in which every request had one row, and the others; None if there were none.
    """

    threads: str
    read_gbytes_per_second: float
    gflops_per_second: float
    decode: StepProfile | None
    prefill: StepProfile | None


class _Tally:
    """Adds up steps of one sort."""

    def __init__(self) -> None:
        self.steps = 0
        self.tokens = 0
        self.seconds = 0.0
        self.spans: dict[str, Span] = {}

    def add(self, tokens: int, seconds: float, spans: dict[str, Span]) -> None:
        self.steps += 1
        self.tokens += tokens
        self.seconds += seconds
        for kind, span in spans.items():
            self.spans.setdefault(kind, Span()).add(span)


def profile_steps(
    engine: Engine, rounds: tuple[Sequence[Prompt], Sequence[Prompt]], params: Sequence[SamplingParams]
) -> ProfileReport:
    """Run one round as it is and one with probes, and measure the machine's limits after them.

    Args:
        engine: in this process, idle, on the CPU.
        rounds: prompts of both; of like lengths, and not the same, lest the second finds its prefixes cached.
        params: sampling parameters of each round's requests.

    Raises:
        ConfigError: the engine's device is not the CPU.
        EngineError: a request failed.
    """
    if engine.info.device != "cpu":
        raise ConfigError(
            f"device: the profile times calls on the CPU, and this engine runs on {engine.info.device}."
        )
    executor = cast(InProcessExecutor, cast(InProcessClient, engine.client).core.executor)
    worker = executor.worker
    assert worker.filling is not None
    worker.filling.wait(_FILLING)  # or steps pay for the cache's pages, which only an engine's first ones do
    plain = _run(engine, rounds[0], params, None)
    probed = _run(engine, rounds[1], params, Spans())
    dtype: torch.dtype = getattr(torch, engine.info.dtype)
    limits = measure_limits(worker.kernels, dtype)
    decode, prefill = (
        _summary(one, other, limits) if one.steps and other.steps else None
        for one, other in zip(probed, plain, strict=True)
    )
    return ProfileReport(
        str(worker.config.threads), limits.read / 1e9, limits.multiply / 1e9, decode, prefill
    )


def _run(
    engine: Engine, prompts: Sequence[Prompt], params: Sequence[SamplingParams], spans: Spans | None
) -> tuple[_Tally, _Tally]:
    """Steps of a round until nothing is left: those that only decode, and the others."""
    core = cast(InProcessClient, engine.client).core
    tallies = (_Tally(), _Tally())
    with ExitStack() as stack:
        plans = stack.enter_context(_plans(core.executor))
        layers = []
        if spans is not None:
            worker = cast(InProcessExecutor, core.executor).worker
            layers = stack.enter_context(probes(worker, spans))
            for owner, name, kind in (
                (core.scheduler, "schedule", "scheduler"),
                (core.scheduler, "update", "scheduler"),
                (core, "step", "other Python"),
                (engine.outputs, "process", "detokenizing"),
            ):
                stack.enter_context(wrapped(owner, name, kind, spans))
        for prompt, one in zip(prompts, params, strict=True):
            request = engine.inputs.prepare(prompt, one)
            core.add(request.engine)
            engine.outputs.add(request)
        while core.has_unfinished():
            start = time.perf_counter()
            processed = engine.outputs.process(core.step(), only_finished=True)
            seconds = time.perf_counter() - start
            for output in processed.outputs:
                if output.error is not None:
                    raise EngineError(f"A request of the profile failed: {output.error}")
            if spans is not None:
                settle(layers, spans)
            (plan,) = plans
            plans.clear()
            tokens = plan.num_tokens
            tallies[tokens > len(plan.slots)].add(tokens, seconds, {} if spans is None else spans.take())
    return tallies


@contextmanager
def _plans(executor: Any) -> Iterator[list[StepPlan]]:
    """The plans that an executor gets, as long as this lasts."""
    plans: list[StepPlan] = []
    submit = executor.submit

    def noting(plan: StepPlan) -> None:
        plans.append(plan)
        submit(plan)

    executor.submit = noting
    try:
        yield plans
    finally:
        del executor.submit


def _summary(probed: _Tally, plain: _Tally, limits: Limits) -> StepProfile:
    spans = _joined(probed.spans)
    total = sum(span.seconds for span in spans.values())
    outside = sum(span.seconds for kind, span in spans.items() if kind in OUTSIDE)
    rows = [
        Row(
            kind=kind,
            ms=1e3 * span.seconds / probed.steps,
            share=span.seconds / total,
            calls=span.calls / probed.steps,
            mbytes=span.nbytes / probed.steps / 1e6,
            gflops=span.flops / probed.steps / 1e9,
            roofline=limits.share(span.nbytes, span.flops, span.seconds)
            if span.nbytes and span.seconds
            else None,
            kernel=kind not in OUTSIDE,
        )
        for kind, span in spans.items()
    ]
    return StepProfile(
        steps=probed.steps,
        tokens=probed.tokens / probed.steps,
        step_ms=1e3 * total / probed.steps,
        outside_ms=1e3 * outside / probed.steps,
        outside_share=outside / total,
        wall_ms=1e3 * plain.seconds / plain.steps,
        tokens_per_second=plain.tokens / plain.seconds,
        rows=sorted(rows, key=lambda row: (not row.kernel, -row.ms)),
    )


def _joined(spans: dict[str, Span]) -> dict[str, Span]:
    """Phases of several parts get the parts' work, which was counted under their own names."""
    joined = dict(spans)
    for phase in [kind for kind in spans if "+" in kind]:
        for part in phase.split("+"):
            if part in joined and not joined[part].seconds:
                joined[phase].add(joined.pop(part))
    return joined
