"""What users may set of `attention.cpu`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CpuAttentionOptions(BaseModel):
    """Options under `plugins.options.attention.cpu`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    isa: str | None = Field(
        None,
        description="Instruction set: amx, avx512bf16, avx512, avx2 or plain. Without it, the best there is.",
    )
