"""What users may set: `plugins: {options: {kernels.cpu: {...}}}`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class CpuKernelsOptions(BaseModel):
    """Options of the `cpu` kernels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    isa: Literal["amx", "avx512bf16", "avx512", "avx2", "plain"] | None = Field(
        default=None, description="Instruction set; by default the best one that the processor has."
    )
    fuse: bool = Field(default=True, description="Whether decoder layers run as one call each.")
