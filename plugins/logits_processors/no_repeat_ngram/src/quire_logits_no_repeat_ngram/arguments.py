"""What a request may say. Imported where requests are admitted: no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Arguments(BaseModel):
    """Arguments of `no-repeat-ngram`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=64)] = 0
    """n: no n tokens in a row twice; 0 for no such rule."""
