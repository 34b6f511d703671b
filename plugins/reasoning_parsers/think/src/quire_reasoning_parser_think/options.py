"""Options of `think`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ThinkOptions(BaseModel):
    """The tags."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    opening: str = Field(default="<think>", min_length=1, description="What begins the thinking.")
    closing: str = Field(default="</think>", min_length=1, description="What ends it.")
    special_tokens: bool = Field(
        default=False, description="The tags are special tokens, which texts otherwise leave out."
    )
