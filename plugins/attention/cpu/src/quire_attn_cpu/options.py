"""What users may set of `attention.cpu`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from quire_native_cpu import InstructionSet


class CpuAttentionOptions(BaseModel):
    """Options under `plugins.options.attention.cpu`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    isa: InstructionSet | None = Field(
        default=None, description="Instruction set; by default the best one that the processor has."
    )
