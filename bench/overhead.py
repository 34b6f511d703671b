"""What a step costs besides the model: a decode step of 32 requests with a model that answers at once.

    python bench/overhead.py [--rows 32] [--steps 400] [--model DIR]

The engine is the real one (scheduler, batch building, block clearing, sampling, detokenizing); its model is
replaced by one whose layers take no time and whose logits lie ready, bf16 of the real width, so what is left
is what the house itself costs. Greedy and plain sampling; each figure is the mean of a step (new blocks come
every sixteenth), in microseconds, with the joints beside it. The last column is `LLM.generate` as a user
calls it: wall time per step, prompts and text included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch

from checkpoint import make_checkpoint
from quire import LLM, SamplingParams
from quire.engine.inputs import Prompt

JOINTS = ("schedule", "submit", "sample", "collect", "update")


class HollowModel:
    """Hidden states and logits that are there before they are asked for."""

    def __init__(self, rows: int, hidden: int, vocab: int) -> None:
        self._hidden = torch.zeros(4096, hidden, dtype=torch.bfloat16)
        self._logits = torch.randn(rows, vocab, dtype=torch.bfloat16)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[T] -> [T, H]`."""
        return self._hidden[: len(token_ids)]

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Any) -> torch.Tensor:
        """`[T, H]` as it came."""
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[R, H] -> [R, V]`."""
        return self._logits[: len(hidden)]


class HollowBackend:
    """Attention that needs no metadata."""

    def plan(self, batch: Any) -> None:
        """Nothing."""


def spans(core: Any) -> dict[str, list[float]]:
    """Time the joints of every step from now on."""
    times: dict[str, list[float]] = defaultdict(list)

    def timed(owner: Any, name: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def wrapper(*args: Any) -> Any:
            start = time.perf_counter()
            result = call(*args)
            times[name].append(time.perf_counter() - start)
            return result

        setattr(owner, name, wrapper)

    for name in ("schedule", "update"):
        timed(core.scheduler, name)
    for name in ("submit", "sample", "collect"):
        timed(core.executor.worker, name)
    return times


def requests(llm: LLM, rows: int, steps: int, temperature: float) -> list[Any]:
    """`rows` prepared requests of `steps` tokens each."""
    prompts = [{"prompt_token_ids": [100 + row] * 128} for row in range(rows)]
    asked = SamplingParams(max_tokens=steps, ignore_eos=True, temperature=temperature)
    return [llm._engine.inputs.prepare(cast(Prompt, prompt), asked) for prompt in prompts]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--model", help="a checkpoint to use instead of the random one")
    args = parser.parse_args()
    llm = LLM(
        args.model or str(make_checkpoint()),
        dtype="bfloat16",
        max_num_seqs=args.rows,
        max_model_len=1024,
        kv_cache_memory_bytes="2GiB",
        show_progress=False,
    )
    core: Any = llm._engine.client.core  # type: ignore[attr-defined]
    worker = core.executor.worker
    worker.model = HollowModel(args.rows, 576, llm._engine.info.vocab_size)
    worker.backends = [HollowBackend() for _ in worker.backends]
    original = {name: getattr(worker, name) for name in ("submit", "sample", "collect")}
    print(f"{'us per step':<12}{'step':>8}" + "".join(f"{name:>10}" for name in JOINTS) + f"{'generate':>10}")
    for title, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        times = spans(core)
        totals = []
        for request in requests(llm, args.rows, args.steps, temperature):
            core.add(request.engine)
        while core.has_unfinished():
            start = time.perf_counter()
            core.step()
            totals.append(time.perf_counter() - start)
        for name, call in original.items():
            setattr(worker, name, call)
        del core.scheduler.schedule, core.scheduler.update
        start = time.perf_counter()
        llm.generate(
            [{"prompt_token_ids": [100 + row] * 128} for row in range(args.rows)],
            SamplingParams(max_tokens=args.steps, ignore_eos=True, temperature=temperature),
            use_tqdm=False,
        )
        whole = (time.perf_counter() - start) / args.steps
        cells = [statistics.mean(totals[1:-1]), *(statistics.mean(times[name][1:-1]) for name in JOINTS)]
        row = f"{1e6 * cells[0]:>8.0f}" + "".join(f"{1e6 * cell:>10.0f}" for cell in cells[1:])
        print(f"{title:<12}{row}{1e6 * whole:>10.0f}", flush=True)
    llm.shutdown()


if __name__ == "__main__":
    main()
