"""The steps that part `attention` measures, and what a time of one comes to. Knows arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_bench.bench import Bench
from gpu_bench.shapes import MODELS, Shape, decode_read, prefill_flops


@dataclass(frozen=True, slots=True)
class Case:
    """Requests whose last `rows` of `context` tokens are computed."""

    shape: Shape
    requests: int
    context: int
    rows: int

    @property
    def step(self) -> str:
        """As labels call it."""
        if self.rows == 1:
            return f"decode {self.requests} x {self.context}"
        return f"prefill {self.requests} x {self.rows}"

    @property
    def read_bytes(self) -> int:
        """K and V of one layer."""
        return decode_read(self.shape.heads, self.requests, self.context, self.shape.element)

    def figures(self, bench: Bench, seconds: float) -> dict[str, float | None]:
        """What a time comes to: decode moves bytes, prefill computes."""
        if self.rows == 1:
            return {
                "ms": 1e3 * seconds,
                "gb_s": self.read_bytes / seconds / 1e9,
                "copy": bench.share(seconds, self.read_bytes),
            }
        flops = self.requests * prefill_flops(self.shape.heads, self.rows)
        return {
            "ms": 1e3 * seconds,
            "tflop_s": flops / seconds / 1e12,
            "gemm": bench.share(seconds, 0, flops),
        }


def cases(toy: bool) -> list[Case]:
    """All that is measured, the aimed at first."""
    if toy:
        return [Case(MODELS["toy"], 2, 48, 1), Case(MODELS["toy"], 1, 48, 48)]
    large, small = MODELS["8b"], MODELS["1b"]
    found = [Case(large, *size, 1) for size in ((64, 4096), (1, 1024), (1, 8192), (64, 1024), (256, 2048))]
    found += [Case(large, 1, tokens, tokens) for tokens in (1024, 8192)]
    found += [Case(small, *size, 1) for size in ((64, 4096), (1, 8192))]
    return [*found, Case(small, 1, 8192, 8192)]
