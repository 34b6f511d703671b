"""What the GPU path aims at, as shares of limits measured in the same run, and whether a run got there."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_bench.record import Label, Report

PRODUCTS = ((4096, 4096), (4096, 28672), (14336, 4096))
"""Inputs and outputs of products that the 4-bit ones are aimed at: projections of an 8B model."""


@dataclass(frozen=True, slots=True)
class Aim:
    """One figure of one row.

    Attributes:
        title: what it says.
        part, labels, figure: which figure: of the row of the part that has all these labels.
        bound: it should reach, or stay below.
        at_most: it should stay below.
    """

    title: str
    part: str
    labels: dict[str, Label]
    figure: str
    bound: float
    at_most: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim beside what was measured, None if it was not."""

    aim: Aim
    value: float | None

    @property
    def word(self) -> str:
        """ "met", "missed" or "not measured"."""
        if self.value is None:
            return "not measured"
        reached = self.value < self.aim.bound if self.aim.at_most else self.value >= self.aim.bound
        return "met" if reached else "missed"


def _decode(title: str, model: str, batch: int, context: int, bound: float) -> Aim:
    return Aim(title, "decode", {"model": model, "batch": batch, "context": context}, "roofline", bound)


def _ahead(title: str, way: str, bound: float) -> Aim:
    labels: dict[str, Label] = {"model": "1b", "engine": f"transformers, {way}"}
    return Aim(title, "transformers", labels, "ahead", bound)


def _quantized(rows: int, size: tuple[int, int], bound: float) -> Aim:
    product = f"{size[0]} x {size[1]}"
    labels: dict[str, Label] = {"product": product, "rows": rows, "kernel": "W4A16"}
    return Aim(f"W4A16, {rows} by {product}, times bf16", "wna16", labels, "ahead", bound)


AIMS = (
    _decode("8B decode, 1 request at 1k", "8b", 1, 1024, 0.85),
    _decode("8B decode, 64 requests at 2k", "8b", 64, 2048, 0.80),
    _decode("1B decode, 1 request at 1k", "1b", 1, 1024, 0.70),
    Aim(
        "Triton decode attention, 64 requests at 4k",
        "attention",
        {"kernel": "triton", "heads": "32/8 x 128", "step": "decode 64 x 4096"},
        "copy",
        0.80,
    ),
    *(_quantized(1, size, 2.2) for size in PRODUCTS),
    *(_quantized(16, size, 1.3) for size in PRODUCTS),
    Aim("8B prefill of 8k", "prefill", {"model": "8b", "tokens": 8192}, "gemm", 0.65),
    Aim("8B, 64 requests: GPU idle between steps", "idle", {"model": "8b", "batch": 64}, "idle", 0.03, True),
    _ahead("1B, times transformers one by one", "one by one", 10.0),
    _ahead("1B, times transformers' continuous batching", "continuous", 2.0),
)


def judge(report: Report, aims: tuple[Aim, ...] = AIMS) -> list[Verdict]:
    """Every aim beside the run's figure."""
    return [Verdict(aim, _value(report, aim)) for aim in aims]


def _value(report: Report, aim: Aim) -> float | None:
    for row in report.rows(aim.part):
        if aim.labels.items() <= row.labels.items() and aim.figure in row.figures:
            return row.figures[aim.figure]
    return None
