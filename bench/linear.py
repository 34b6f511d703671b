"""Packed linears against `F.linear`, both sides in one run.

    python bench/linear.py [--dtype bfloat16] [--threads 2] [--hints]

The sides alternate, so that a busy machine disturbs both alike, and each keeps its best round. `--hints`
also times oneDNN layouts chosen for other numbers of rows than the one `torch-cpu` uses.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops.linear import PackedLinear
from quire.ops.torch_cpu import TorchCpuKernels

SHAPES = [(576, 960), (576, 3072), (1536, 576), (576, 49152)]  # a 135M Llama: qkv, gate_up, down, head
ROWS = [1, 8, 32, 256]
HINTS = [1, 32, 1024]
ROUNDS = 40
SECONDS = 3.0  # a line takes no longer, if need be with fewer rounds


def best_times(sides: list[Callable[[], torch.Tensor]], calls: int) -> list[float]:
    """Microseconds per call of each side: the best of up to `ROUNDS` rounds, sides in turn."""
    best = [float("inf")] * len(sides)
    deadline = time.perf_counter() + SECONDS
    for done in range(ROUNDS):
        if done and time.perf_counter() > deadline:
            break
        for index, side in enumerate(sides):
            side()
            start = time.perf_counter()
            for _ in range(calls):
                side()
            best[index] = min(best[index], (time.perf_counter() - start) / calls)
    return [seconds * 1e6 for seconds in best]


def main() -> None:
    """Print one line per shape and number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32", "float16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--hints", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    kernels = TorchCpuKernels(KernelsInit(need=KernelsNeed(device="cpu", dtype=options.dtype), device="cpu"))
    hints = HINTS if options.hints and dtype != torch.float16 else []
    print(f"torch {torch.__version__}, {options.dtype}, {options.threads} threads; microseconds per call")
    print(f"{'shape':>14} {'rows':>5} {'F.linear':>9} {'packed':>9} {'ratio':>6} {'GB/s':>6}", end=" ")
    print(*(f"hint {hint:>5}" for hint in hints))
    for inputs, outputs in SHAPES:
        weight = (torch.randn(outputs, inputs) * inputs**-0.5).to(dtype)
        packs = [kernels.pack_linear(weight)]
        for hint in hints:
            blocked = torch.ops.mkldnn._reorder_linear_weight(weight, hint)
            packs.append(PackedLinear(blocked, None, weight.nbytes))
        for rows in ROWS:
            x = torch.randn(rows, inputs).to(dtype)
            sides: list[Callable[[], torch.Tensor]] = [partial(F.linear, x, weight)]
            sides += [partial(kernels.linear, x, pack) for pack in packs]
            calls = max(1, 2_000_000 // (inputs * outputs))
            with torch.inference_mode():
                plain, packed, *others = best_times(sides, calls)
            shape = f"{inputs}->{outputs}"
            speed = weight.nbytes / packed / 1e3
            print(
                f"{shape:>14} {rows:>5} {plain:>9.1f} {packed:>9.1f} {plain / packed:>6.2f} {speed:>6.1f}",
                end=" ",
            )
            print(*(f"{other:>10.1f}" for other in others), flush=True)


if __name__ == "__main__":
    main()
