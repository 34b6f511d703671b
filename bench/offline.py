"""Offline throughput: 32 ragged requests through Quire and through transformers, in turn, in one run.

    python bench/offline.py [--rounds 3] [--model DIR]

Prompts of 32 to 256 random tokens, outputs of 32 to 192, greedy, EOS ignored, bf16, on a random
checkpoint of 135 M parameters in Llama's form (made once and kept in the temporary directory).
transformers runs its batched `generate`, in each round with every batch size of `--batches`: requests are
sorted by output length, so that little is padded, and the best one counts. Only the tokens that were asked
for count. Each engine lives in a process of its own, as its users run it; all are loaded before the first
round and take turns, the others waiting. Beside them stands what the machine could do at that
moment: the rate at which all threads read memory.

Quote the ratio: absolute figures drift with the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from checkpoint import make_checkpoint


class Request(NamedTuple):
    """One request: its prompt, and how many tokens it wants."""

    prompt: list[int]
    new: int


def requests(seed: int) -> list[Request]:
    """32 requests; the lengths are the same for every seed, the ids are not, so no prefix cache helps."""
    lengths, ids = random.Random(1234), random.Random(seed)
    return [
        Request(
            [ids.randrange(16, 31_000) for _ in range(lengths.randint(32, 256))], lengths.randint(32, 192)
        )
        for _ in range(32)
    ]


def quire_side(model: str) -> Callable[[Sequence[Request]], None]:
    """A function that generates all requests with Quire."""
    from quire import LLM, SamplingParams

    llm = LLM(model, dtype="bfloat16", max_num_seqs=32, max_model_len=1024, show_progress=False)

    def run(batch: Sequence[Request]) -> None:
        params = [
            SamplingParams(temperature=0.0, max_tokens=one.new, ignore_eos=True, detokenize=False)
            for one in batch
        ]
        outputs = llm.generate([one.prompt for one in batch], params, use_tqdm=False)
        counts = [len(output.outputs[0].token_ids) for output in outputs]
        assert counts == [one.new for one in batch], "a request got too few tokens"

    return run


def transformers_side(model: str, batch_size: int) -> Callable[[Sequence[Request]], None]:
    """A function that generates all requests with transformers, `batch_size` at a time."""
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    lm = factory.from_pretrained(model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()

    def run(batch: Sequence[Request]) -> None:
        ordered = sorted(batch, key=lambda one: one.new)
        for start in range(0, len(ordered), batch_size):
            some = ordered[start : start + batch_size]
            width = max(len(one.prompt) for one in some)
            ids = torch.zeros(len(some), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, one in enumerate(some):
                ids[row, width - len(one.prompt) :] = torch.tensor(one.prompt)
                mask[row, width - len(one.prompt) :] = 1
            with torch.inference_mode():
                lm.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    max_new_tokens=max(one.new for one in some),
                    eos_token_id=-1,
                    pad_token_id=0,
                )

    return run


def read_bandwidth() -> float:
    """GB/s at which all threads read a buffer that fits no cache."""
    buffer = torch.ones(2**28, dtype=torch.float32)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        buffer.sum()
        best = max(best, buffer.nbytes / (time.perf_counter() - start) / 1e9)
    return best


class Peer:
    """One engine in a process of its own: a seed in, a rate out."""

    def __init__(self, name: str, model: str) -> None:
        self._name = name
        command = [sys.executable, __file__, "--serve", name, "--model", model]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.ask("warm")

    def ask(self, line: str) -> str:
        """Send a line, wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        for answer in self._process.stdout:
            if answer.startswith("="):
                return answer[1:].strip()
        raise RuntimeError(f"The process of {self._name!r} ended early.")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(name: str, model: str) -> None:
    """The loop inside a peer's process."""
    run = quire_side(model) if name == "quire" else transformers_side(model, int(name.split()[-1]))
    for line in sys.stdin:
        batch = requests(seed=0)[:4] if line.strip() == "warm" else requests(seed=int(line))
        start = time.perf_counter()
        run(batch)
        print(f"={sum(one.new for one in batch) / (time.perf_counter() - start)}", flush=True)


def main() -> None:
    """Run all sides in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a checkpoint to use instead of the random one")
    parser.add_argument("--batches", default="8,16,32", help="batch sizes that transformers tries")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    model = args.model or str(make_checkpoint())
    if args.serve:
        serve(args.serve, model)
        return
    names = ["quire", *(f"transformers, batch {size}" for size in args.batches.split(","))]
    peers = {name: Peer(name, model) for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    bandwidth = []
    for round_ in range(1, args.rounds + 1):
        bandwidth.append(read_bandwidth())
        for name, peer in peers.items():
            rates[name].append(float(peer.ask(str(round_))))
            print(f"round {round_}  {name:<24} {rates[name][-1]:8.1f} output tok/s", flush=True)
    for peer in peers.values():
        peer.close()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(value for name, value in medians.items() if name != "quire")
    print(f"\n{'':<26}{'median output tok/s':>20}{'Quire / this':>14}")
    for name, value in medians.items():
        print(f"{name:<26}{value:>20.1f}{medians['quire'] / value:>14.2f}")
    print(f"memory read at {statistics.median(bandwidth):.1f} GB/s, {torch.get_num_threads()} threads")
    print(f"Quire / best transformers: {medians['quire'] / best:.2f}")
    if args.json:
        result = {
            "rates": rates,
            "bandwidth_gb_s": bandwidth,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
