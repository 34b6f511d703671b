"""What can be set about int8 quantization."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Int8Options(BaseModel):
    """Options of `quantization.int8`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skip: list[str] = Field(
        default_factory=list,
        description="Modules that keep the compute dtype, as shell patterns over their names in the "
        "checkpoint: `*.down_proj`, `model.layers.0.*`.",
    )
    lm_head: bool = Field(
        default=True, description="Quantize the language-model head too, also one that shares the embedding."
    )
