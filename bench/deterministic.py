"""What `deterministic: true` costs: two engines in one process take turns on the same requests.

    python bench/deterministic.py [--model 135m] [--rounds 5] [--workloads single,ragged]

Both compute in bf16. Medians of the rounds; the order changes from round to round.
"""

from __future__ import annotations

import argparse
import statistics
import time

from checkpoint import SHAPES, make_checkpoint
from harness.adapters.quire_llm import Quire
from harness.adapters.worker import Request
from harness.markdown import align, number
from harness.workloads import OFFLINE, WORKLOADS, Answer, figures, make_requests, warm_up


def run(engine: Quire, requests: list[Request]) -> Answer:
    """All requests at once."""
    begin = time.perf_counter()
    results = engine.generate(requests)
    seconds = time.perf_counter() - begin
    times = [[moment - begin for moment in one.times] for one in results]
    return Answer(seconds, [one.tokens for one in results], times, {})


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
        deterministic: Quire(path, 0, {"engine": {"deterministic": deterministic}})
        for deterministic in (False, True)
    }
    for engine in engines.values():
        engine.load()
        for batch in warm_up(workloads):
            run(engine, batch)
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
