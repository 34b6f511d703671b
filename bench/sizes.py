"""What a step of Quire costs against its size: batches of 1 to 128, contexts of 256 to 8k.

    python bench/sizes.py [--model 135m] [--batches 1,8,32] [--contexts 256,2048] [--json FILE]

At every point all prompts are computed first, which gives the prompts' rate, and stay in the prefix cache;
then the same prompts come again and decode together, which gives the step's time. Points whose batch and
context make more tokens than `--most-tokens` are left out. `bench/page.py --sizes FILE` writes the result
into the documentation.
"""

from __future__ import annotations

import argparse
import datetime
import random
import shlex
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from checkpoint import SHAPES, make_checkpoint
from harness.record import this_machine
from harness.sizes import Point, SizeReport, grid, sizes_text, step_seconds
from harness.workloads import HIGHEST_ID, LOWEST_ID
from quire import LLM, SamplingParams

STEPS = 24  # tokens of each request: enough that all decode together for most of them
BLOCK_SLACK = 64  # tokens of the cache beyond a request's own


def cache_bytes(name: str, requests: int, tokens: int) -> int:
    """Bytes of a bf16 KV cache for as many tokens in as many requests."""
    shape = SHAPES[name]
    per_token = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"] * 2
    return int(per_token * (tokens + requests * (STEPS + BLOCK_SLACK)) * 1.1)


def measure(llm: LLM, batch: int, context: int, rounds: int, draw: random.Random) -> Point:
    """One point."""
    prompts = [[draw.randint(LOWEST_ID, HIGHEST_ID) for _ in range(context)] for _ in range(batch)]

    def generate(new: int) -> list[tuple[float, ...]]:
        params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [output.metrics.token_times for output in outputs if output.metrics is not None]

    begin = time.perf_counter()
    generate(1)
    prefill = time.perf_counter() - begin
    steps = [step_seconds(generate(STEPS)) for _ in range(rounds)]
    return Point(
        batch=batch,
        context=context,
        step_ms=1e3 * statistics.median(steps),
        prefill_tok_s=batch * context / prefill,
    )


def numbers(text: str) -> list[int]:
    """Of a comma-separated list."""
    return [int(one) for one in text.split(",")]


def main() -> None:
    """Measure all points and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="135m", choices=list(SHAPES))
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--contexts", type=numbers, default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--most-tokens", type=int, default=32_768, help="in the KV cache (32768)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    points = grid(args.batches, args.contexts, args.most_tokens)
    if not points:
        parser.error(f"no batch and context fit --most-tokens {args.most_tokens}")
    most = max(batch for batch, _ in points)
    length = max(context for _, context in points) + STEPS
    started = datetime.datetime.now().isoformat(timespec="seconds")
    settings: dict[str, Any] = {
        "dtype": "bfloat16",
        "max_num_seqs": most,
        "max_model_len": length,
        "kv_cache_memory_bytes": cache_bytes(args.model, most, args.most_tokens),
        # random weights know no length: any will do
        "hf_overrides": {
            "max_position_embeddings": max(length, SHAPES[args.model]["max_position_embeddings"])
        },
    }
    draw = random.Random(0)
    measured = []
    with LLM(str(make_checkpoint(args.model)), **settings, show_progress=False) as llm:
        measure(llm, 1, min(64, length - STEPS), 1, draw)  # warms up
        for batch, context in points:
            measured.append(measure(llm, batch, context, args.rounds, draw))
            print(f"{measured[-1]}", file=sys.stderr, flush=True)
    report = SizeReport(
        started=started,
        command=shlex.join(sys.argv[1:]),
        machine=this_machine(),
        model=args.model,
        versions={name: version(name) for name in ("quire", "torch")},
        points=tuple(measured),
    )
    print(sizes_text(report))
    if args.json:
        args.json.write_text(report.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main()
