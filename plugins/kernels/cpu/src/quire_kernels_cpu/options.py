"""What users may set: `plugins: {options: {kernels.cpu: {...}}}`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from quire_native_cpu import InstructionSet


class CpuKernelsOptions(BaseModel):
    """Options of the `cpu` kernels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    isa: InstructionSet | None = Field(
        default=None, description="Instruction set; by default the best one that the processor has."
    )
    fuse: bool = Field(default=True, description="Whether decoder layers run as one call each.")
