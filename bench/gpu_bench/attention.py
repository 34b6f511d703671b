"""Part `attention`: one layer's attention alone, every installed backend beside PyTorch's flash kernel."""

from __future__ import annotations

import torch

from gpu_bench.attention_cases import cases
from gpu_bench.attention_kernels import kernels
from gpu_bench.bench import Bench, first_line
from gpu_bench.record import Label

ROUNDS = 30


def run(bench: Bench) -> None:
    """All kernels on all cases.

    Raises:
        RuntimeError: some broke, after all were tried; their rows say how.
    """
    broken = []
    for case in cases(bench.toy):
        heads = "{}/{} x {}".format(*case.shape.heads)
        for name, make in kernels(case.shape, bench.device).items():
            labels: dict[str, Label] = {"heads": heads, "step": case.step, "kernel": name}
            if bench.late:
                bench.row(labels, note="left out: no time")
                continue
            try:
                with torch.inference_mode():
                    seconds = bench.median_seconds(make(case, bench), 4 if bench.toy else ROUNDS)
            except Exception as error:  # of a compiler, a driver, another project
                bench.synchronize()  # raises where the device itself is lost
                bench.row(labels, note=first_line(error))
                broken.append(f"{name} at {case.step}")
            else:
                bench.row(labels, figures=case.figures(bench, seconds))
    if broken:
        raise RuntimeError(f"broke: {', '.join(broken)}")
