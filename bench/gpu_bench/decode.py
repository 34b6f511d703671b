"""Parts `decode` and `idle`: steps in which every request has one row, of the whole engine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from gpu_bench.bench import Bench
from gpu_bench.engine import cache_tokens, draw_prompt, hollow
from gpu_bench.record import Label
from gpu_bench.shapes import Shape
from gpu_bench.timeline import Timeline
from harness.sizes import step_seconds
from quire import LLM, SamplingParams

STEPS = 32
"""Tokens of each request. Contexts are those in the middle."""

GRID = [(batch, context) for context in (1024, 2048, 8192) for batch in (1, 64, 256)]
TOY_GRID = [(1, 64), (4, 64), (64, 64)]
SLACK = 32
"""Tokens of cache that a request needs beyond its own, for its last block."""


def run(bench: Bench, llm: LLM, shape: Shape) -> None:
    """A row a point; one that does not fit the cache, or for which no time is left, says so."""
    for batch, context in TOY_GRID if bench.toy else GRID:
        labels: dict[str, Label] = {"model": shape.name, "batch": batch, "context": context}
        needed = batch * (context + STEPS + SLACK)
        if needed > cache_tokens(llm):
            bench.row(labels, note=f"left out: {needed} tokens do not fit a cache of {cache_tokens(llm)}")
        elif bench.late:
            bench.row(labels, note="left out: no time")
        else:
            seconds = step_seconds(decode(llm, shape, batch, context))
            bench.row(
                labels,
                {
                    "ms": 1e3 * seconds,
                    "tok_s": batch / seconds,
                    "roofline": bench.share(
                        seconds, shape.decode_bytes(batch, context), shape.decode_flops(batch, context)
                    ),
                },
            )


def run_idle(bench: Bench, llm: LLM, shape: Shape) -> None:
    """Steps of 64 requests under the profiler."""
    batch, context = (4, 64) if bench.toy else (64, 1024)
    timeline = Timeline(bench.device)
    decode(llm, shape, batch, context)  # compiles what is not yet
    decode(llm, shape, batch, context, around=timeline.recording())
    found = timeline.idleness()
    labels: dict[str, Label] = {"model": shape.name, "batch": batch, "context": context}
    bench.row(labels, {"idle": found.waiting, "gaps": found.gaps})


def decode(
    llm: LLM,
    shape: Shape,
    batch: int,
    context: int,
    around: AbstractContextManager[object] | None = None,
) -> Sequence[Sequence[float]]:
    """When each token of each request came, in seconds.

    The prompts are cached first, without being computed, so that all requests begin in one step.

    Args:
        llm: the engine.
        shape: of its model.
        batch, context: requests, and tokens of each in the middle of its decoding.
        around: entered while they decode.
    """
    draw = random.Random(f"{batch} x {context}")
    prompts = [draw_prompt(draw, context - STEPS // 2, shape.vocab) for _ in range(batch)]
    llm.reset_prefix_cache()
    with hollow(llm, shape):
        llm.generate(prompts, _greedy(1), use_tqdm=False)
    with around or nullcontext():
        outputs = llm.generate(prompts, _greedy(STEPS), use_tqdm=False)
    times = []
    for output in outputs:
        if output.metrics is None or len(output.metrics.token_times) != STEPS:
            raise RuntimeError(f"A request ended early: {output.error}")
        times.append(output.metrics.token_times)
    return times


def _greedy(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
