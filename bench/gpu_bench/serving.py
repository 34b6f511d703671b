"""Parts `prefill` and `workload`: single prompts, and many requests at once, of the whole engine."""

from __future__ import annotations

import random
import statistics
import time

from gpu_bench.bench import Bench
from gpu_bench.engine import draw_prompt
from gpu_bench.shapes import Shape
from quire import LLM, SamplingParams

ROUNDS = 5
WARM_REQUESTS, WARM_TOKENS = 64, 8
"""Of a run before the clock, in which kernels are compiled."""

REQUESTS, SHORTEST, LONGEST = 256, 100, 1024
"""Nano-vllm's benchmark: https://github.com/GeeeekExplorer/nano-vllm, bench.py."""


def run_prefill(bench: Bench, llm: LLM, shape: Shape) -> None:
    """One fresh prompt after the other, of each length."""
    draw = random.Random("prefill")
    for tokens in (32, 64) if bench.toy else (1024, 8192):
        times = []
        for _ in range(1 + ROUNDS):  # the first warms up
            prompt = draw_prompt(draw, tokens, shape.vocab)
            begin = time.perf_counter()
            llm.generate([prompt], _params(1, 0.0), use_tqdm=False)
            times.append(time.perf_counter() - begin)
        seconds = statistics.median(times[1:])
        flops = shape.prefill_flops(tokens)
        bench.row(
            {"model": shape.name, "tokens": tokens},
            {
                "ms": 1e3 * seconds,
                "tok_s": tokens / seconds,
                "tflop_s": flops / seconds / 1e12,
                "gemm": bench.share(seconds, 0, flops),
            },
        )


def lengths(toy: bool) -> list[tuple[int, int]]:
    """Tokens of prompt and output of each request; the same in every run."""
    count, low, high = (8, 4, 16) if toy else (REQUESTS, SHORTEST, LONGEST)
    draw = random.Random(0)
    return [(draw.randint(low, high), draw.randint(low, high)) for _ in range(count)]


def run_workload(bench: Bench, llm: LLM, shape: Shape) -> None:
    """All requests at once, sampled at temperature 0.6."""
    draw = random.Random("workload")
    sizes = lengths(bench.toy)
    prompts = [draw_prompt(draw, size, shape.vocab) for size, _ in sizes]
    llm.generate(prompts[:WARM_REQUESTS], _params(WARM_TOKENS, 0.6), use_tqdm=False)
    llm.reset_prefix_cache()
    params = [_params(new, 0.6) for _, new in sizes]
    begin = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - begin
    made = sum(len(output.outputs[0].token_ids) for output in outputs)
    if made != sum(new for _, new in sizes):
        raise RuntimeError(f"{made} tokens came: {[one.error for one in outputs if one.error][:1]}")
    bench.row(
        {"model": shape.name, "requests": len(sizes), "output tokens": made},
        {"ms": 1e3 * seconds, "tok_s": made / seconds},
    )


def _params(tokens: int, temperature: float) -> SamplingParams:
    return SamplingParams(temperature=temperature, max_tokens=tokens, ignore_eos=True, detokenize=False)
