"""What a run leaves behind: rows of figures by part, and what became of each part. Knows nothing of how."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Label = str | int


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Record):
    """One measurement.

    Attributes:
        labels: what was measured, as model, batch and context.
        figures: numbers, by the names in `FIGURES`; none where it could not be measured.
        note: why it was not, or what must be known.
    """

    labels: dict[str, Label]
    figures: dict[str, float] = Field(default_factory=dict)
    note: str = ""


class PartRecord(_Record):
    """A part of the benchmark, on one model where it is of one.

    Attributes:
        state: "failed" broke or was ended; rows are what was measured before.
        error: why it failed.
        seconds: it took.
    """

    part: str
    model: str = ""
    state: Literal["measured", "failed"]
    error: str = ""
    seconds: float = 0.0
    rows: tuple[Row, ...] = ()


class Report(_Record):
    """One run.

    Attributes:
        started: local date and time, ISO 8601.
        command: arguments it was called with.
        device: its name, memory and cache.
    """

    format: Literal[1] = 1
    started: str
    command: str
    device: str
    versions: dict[str, str]
    parts: tuple[PartRecord, ...]

    def rows(self, part: str) -> list[Row]:
        """All rows of a part, whatever the model."""
        return [row for one in self.parts if one.part == part for row in one.rows]

    @property
    def complete(self) -> bool:
        """Nothing failed."""
        return all(one.state == "measured" for one in self.parts)


FIGURES = {
    "copy_gb_s": ("copy GB/s", False),
    "gemm_tflop_s": ("GEMM TFLOP/s", False),
    "ms": ("ms", False),
    "gb_s": ("GB/s", False),
    "tflop_s": ("TFLOP/s", False),
    "tok_s": ("tok/s", False),
    "roofline": ("of the roofline", True),
    "copy": ("of copy bandwidth", True),
    "gemm": ("of GEMM rate", True),
    "idle": ("idle between steps", True),
    "gaps": ("no kernel at all", True),
    "ahead": ("quire is faster by", False),
    "same_first": ("same first token", True),
}
"""Heading of each figure, and whether it is a share."""
