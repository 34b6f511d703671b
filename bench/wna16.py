"""4- and 8-bit weights against bf16 ones and PyTorch's own 4-bit product, all sides in one run.

    python bench/wna16.py [--threads 2] [--group 128] [--shapes 2048x8192] [--rows 1 32]

Sides alternate; medians of the rounds. Every call has a matrix of its own out of several, more than the
processor's second-level cache holds, as the layers of a model have. The last columns say how fast the 4-bit
weights were read, codes and scales, and how fast memory is read here by a plain sum.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import cycle

import torch

from int8 import kernels_of, median_times, plain_side
from quire.contracts import QuantizedWeight
from quire.ops import Kernels
from quire_kernels_cpu.kernels import CpuKernels

BYTES = 64 << 20
"""bf16 weights that one side goes through in turn, and half of it, or a quarter, in codes."""

SHAPES = ((576, 1536), (2048, 2048), (2048, 8192), (4096, 4096), (4096, 14336))
ROWS = (1, 2, 4, 8, 16, 32, 128, 512)


def wna16_side(
    kernels: Kernels, inputs: int, outputs: int, bits: int, group: int, x: torch.Tensor, *, zeros: bool
) -> tuple[Callable[[], torch.Tensor], int]:
    """Linears of packed weights by these kernels, and the bytes of one."""
    groups = inputs // group
    weight = QuantizedWeight(
        codes=torch.randint(2**bits, (inputs, outputs), dtype=torch.uint8),
        bits=bits,
        scales=((torch.rand(groups, outputs) + 0.5) / 2**bits * inputs**-0.5).half(),
        zeros=torch.randint(2**bits, (groups, outputs))
        if zeros
        else torch.full((groups, outputs), 1 << bits - 1),
    )
    packs = [kernels.pack_wna16(weight) for _ in range(_copies(inputs, outputs))]
    turn = cycle(packs)
    return lambda: kernels.wna16_linear(x, next(turn)), packs[0].nbytes


def torch_side(inputs: int, outputs: int, group: int, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """PyTorch's product of bf16 rows with 4-bit weights."""
    codes = torch.randint(16, (outputs, inputs), dtype=torch.int32)
    scales = torch.rand(inputs // group, outputs, 2).bfloat16()
    packs = cycle(
        [
            torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
            for _ in range(_copies(inputs, outputs))
        ]
    )
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return lambda: multiply(x, next(packs), group, scales)


def _copies(inputs: int, outputs: int) -> int:
    return max(1, 2 * BYTES // (inputs * outputs))


def main() -> None:
    """Print one line per shape and number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--shapes", nargs="+", default=[f"{k}x{n}" for k, n in SHAPES])
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kernels = kernels_of(CpuKernels)
    many = torch.ones(256 << 20, dtype=torch.uint8).view(torch.int64)
    [limit] = median_times([many.sum], 1)
    limit = many.nbytes / limit / 1e3
    print(
        f"torch {torch.__version__}, {options.threads} threads, groups of {options.group}; "
        "microseconds per call"
    )
    names = ("bf16", "4 bit", "4 bit zeros", "8 bit", "torch 4 bit")
    print(
        f"{'shape':>14} {'rows':>5}",
        *(f"{name:>12}" for name in names),
        f"{'bf16/4 bit':>11} {'GB/s':>6} of {limit:.1f}",
    )
    for shape in options.shapes:
        inputs, outputs = map(int, shape.split("x"))
        dense = (torch.randn(outputs, inputs) * inputs**-0.5).bfloat16()
        group = options.group if inputs % options.group == 0 else 64
        for rows in options.rows:
            x = torch.randn(rows, inputs).bfloat16()
            four, nbytes = wna16_side(kernels, inputs, outputs, 4, group, x, zeros=False)
            sides = [plain_side(kernels, dense, x), four]
            sides.append(wna16_side(kernels, inputs, outputs, 4, group, x, zeros=True)[0])
            sides.append(wna16_side(kernels, inputs, outputs, 8, group, x, zeros=False)[0])
            sides.append(torch_side(inputs, outputs, group, x))
            with torch.inference_mode():
                times = median_times(sides, max(1, _copies(inputs, outputs) if rows <= 32 else 1))
            print(
                f"{inputs:>6}->{outputs:<6} {rows:>5}",
                *(f"{each:>12.1f}" for each in times),
                f"{times[0] / times[1]:>11.2f} {nbytes / times[1] / 1e3:>6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
