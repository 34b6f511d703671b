"""int8 linears against bf16 ones, all sides in one run.

    python bench/int8.py [--threads 2]

The same shapes and rows as `bench/linear.py`. Sides alternate; medians of the rounds. int8 counts the
quantization of its activations. Every call has a matrix of its own out of several, more than the processor's
second-level cache holds, as the layers of a model have.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import cycle

import torch

from linear import ROUNDS, ROWS, SECONDS, SHAPES
from quire.contracts import KernelsInit, KernelsNeed, QuantizedWeight
from quire.ops import Kernels
from quire.ops.torch_cpu import TorchCpuKernels
from quire_kernels_cpu.kernels import CpuKernels

BYTES = 64 << 20
"""int8 weights that one side goes through in turn."""


def kernels_of(kernels: type[Kernels]) -> Kernels:
    """The kernels in bf16."""
    return kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="bfloat16"), device="cpu"))


def plain_side(kernels: Kernels, weight: torch.Tensor, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """bf16 linears by these kernels."""
    packs = cycle([kernels.pack_linear(weight) for _ in range(_copies(weight))])
    return lambda: kernels.linear(x, next(packs))


def int8_side(kernels: Kernels, weight: torch.Tensor, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """int8 linears by these kernels."""
    scales = weight.float().abs().amax(1) / 127
    codes = (weight.float() / scales.unsqueeze(1)).round().to(torch.int8)
    quantized = QuantizedWeight(
        codes=codes.t(), bits=8, scales=scales.unsqueeze(0), activation="int8_per_token"
    )
    packs = cycle([kernels.pack_w8a8(quantized) for _ in range(_copies(weight))])
    return lambda: kernels.w8a8_linear(x, next(packs))


def median_times(sides: list[Callable[[], torch.Tensor]], calls: int) -> list[float]:
    """Microseconds per call of each side: medians of up to `ROUNDS` rounds, sides in turn."""
    rounds: list[list[float]] = [[] for _ in sides]
    deadline = time.perf_counter() + SECONDS
    while len(rounds[0]) < ROUNDS and (not rounds[0] or time.perf_counter() < deadline):
        for side, times in zip(sides, rounds, strict=True):
            side()
            start = time.perf_counter()
            for _ in range(calls):
                side()
            times.append((time.perf_counter() - start) / calls * 1e6)
    return [statistics.median(times) for times in rounds]


def _copies(weight: torch.Tensor) -> int:
    return max(1, BYTES // weight.numel())


def main() -> None:
    """Print one line per shape and number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch_cpu, native = kernels_of(TorchCpuKernels), kernels_of(CpuKernels)
    print(f"torch {torch.__version__}, {options.threads} threads; microseconds per call")
    print(
        f"{'shape':>14} {'rows':>5} {'torch bf16':>11} {'bf16':>9} {'int8':>9} {'bf16/int8':>10} {'GB/s':>6}"
    )
    for inputs, outputs in SHAPES:
        weight = (torch.randn(outputs, inputs) * inputs**-0.5).bfloat16()
        for rows in ROWS:
            x = torch.randn(rows, inputs).bfloat16()
            sides = [plain_side(torch_cpu, weight, x), plain_side(native, weight, x)]
            sides.append(int8_side(native, weight, x))
            with torch.inference_mode():
                theirs, plain, int8 = median_times(sides, _copies(weight))
            speed = weight.numel() / int8 / 1e3
            print(
                f"{f'{inputs}->{outputs}':>14} {rows:>5} {theirs:>11.1f} {plain:>9.1f} {int8:>9.1f} "
                f"{plain / int8:>10.2f} {speed:>6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
