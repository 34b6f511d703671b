"""Microseconds that prompt lookup takes per ask and request, beside a decode step of some milliseconds.

    python bench/ngram.py [--slots 32] [--steps 300]

Each step asks for all slots, after one more token or after four; what was said before has 1000 tokens. The
first ask of a request reads its prompt and is shown apart.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from quire.contracts import SpeculatorInit, SpeculatorNeed
from quire_speculator_ngram.speculator import NgramSpeculator


def measure(slots: int, steps: int, grow: int, vocab: int) -> tuple[float, float]:
    """Microseconds of the first ask per token of the prompt, and of a later one per slot; medians."""
    need = SpeculatorNeed(device="cpu", dtype="float32", vocab_size=vocab, num_speculative_tokens=5)
    init = SpeculatorInit(need=need, device="cpu", max_num_seqs=slots, max_model_len=32768)
    speculator, draw = NgramSpeculator(init), np.random.default_rng(0)
    text = draw.integers(0, vocab, (slots, 1000 + grow * (steps + 1)), dtype=np.int32)
    who, counts, times = list(range(slots)), [5] * slots, []
    for step in range(steps):
        contexts = [row[: 1000 + grow * step] for row in text]
        start = time.perf_counter()
        speculator.propose(who, counts, contexts)
        times.append(time.perf_counter() - start)
    return 1e6 * times[0] / slots / 1000, 1e6 * statistics.median(times[1:]) / slots


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    print("| text | new tokens per ask | first ask, us per token | later asks, us per slot |")
    print("| --- | ---: | ---: | ---: |")
    for title, vocab in (("nothing found", 2**17), ("always found", 4)):
        for grow in (1, 4):
            first, later = measure(args.slots, args.steps, grow, vocab)
            print(f"| {title} | {grow} | {first:.2f} | {later:.1f} |", flush=True)


if __name__ == "__main__":
    main()
