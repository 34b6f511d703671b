"""What `deterministic: true` costs: two engines in one process take turns on the same requests.

    python bench/deterministic.py [--model 135m] [--rounds 5] [--workloads single,ragged]

Both compute in bf16. Medians of the rounds; the order changes from round to round.
"""

from __future__ import annotations

import argparse
import statistics
import time

from checkpoint import SHAPES, make_checkpoint
from harness.adapters.worker import Request
from harness.markdown import align, number
from harness.workloads import OFFLINE, WORKLOADS, Answer, figures, make_requests, warm_up
from quire import LLM, SamplingParams


def run(llm: LLM, requests: list[Request]) -> Answer:
    """All requests at once."""
    params = [
        SamplingParams(temperature=0.0, max_tokens=one.new, ignore_eos=True, detokenize=False)
        for one in requests
    ]
    begin = time.monotonic()
    outputs = llm.generate([one.prompt for one in requests], params, use_tqdm=False)
    seconds = time.monotonic() - begin
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    times = [
        [moment - begin for moment in output.metrics.token_times]
        for output in outputs
        if output.metrics is not None
    ]
    return Answer(seconds, tokens, times, {})


def main() -> None:
    """Print a row per figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="135m", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", default=",".join(OFFLINE), help=f"of {', '.join(OFFLINE)} (all)")
    args = parser.parse_args()
    workloads = args.workloads.split(",")
    if unknown := set(workloads) - set(OFFLINE):
        parser.error(f"unknown workloads {sorted(unknown)}; there are {', '.join(OFFLINE)}")
    path = str(make_checkpoint(args.model))
    engines = {
        deterministic: LLM(
            path,
            dtype="bfloat16",
            deterministic=deterministic,
            max_num_seqs=64,
            max_model_len=2048,
            kv_cache_memory_bytes="1GiB",
            show_progress=False,
        )
        for deterministic in (False, True)
    }
    for llm in engines.values():
        for batch in warm_up(workloads):
            run(llm, batch)
    found: dict[tuple[str, bool], list[float]] = {}
    for workload in workloads:
        for round_ in range(args.rounds):
            requests = make_requests(workload, round_)
            for deterministic in (False, True) if round_ % 2 else (True, False):
                answer = run(engines[deterministic], requests)
                for name, value in figures(workload, requests, answer).items():
                    found.setdefault((name, deterministic), []).append(value)
    lines = [["", "unit", "as it comes", "deterministic", "slower by"], ["---"] * 5]
    for workload in workloads:
        for figure in WORKLOADS[workload].figures:
            free, bound = (statistics.median(found[figure.name, side]) for side in (False, True))
            cost = (free / bound if figure.higher_is_better else bound / free) - 1
            lines.append([figure.label, figure.unit, number(free), number(bound), f"{cost:+.1%}"])
    print(align(lines))


if __name__ == "__main__":
    main()
