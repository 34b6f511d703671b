"""The part of the configuration that is about grammars."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from quire._config_types import NOT_BOOL, Bytes

__all__ = ["StructuredOutputsConfig"]


class StructuredOutputsConfig(BaseModel):
    """Grammars: who compiles them, and what that may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str = Field(
        default="auto",
        description="Grammar plugin (`name` or `distribution:name`); `auto` tries all that are installed, "
        "the best one first, until one can do what a request asks for.",
    )
    compile_timeout: Annotated[float, NOT_BOOL] = Field(
        default=2.0,
        gt=0,
        le=60,
        allow_inf_nan=False,
        description="Most seconds for compiling one grammar.",
    )
    max_source_bytes: Bytes = Field(
        default=1 << 18, description="Largest schema, expression or grammar, in bytes or as `64KiB`."
    )
    cache_bytes: Bytes = Field(
        default=1 << 26, description="Compiled grammars that a front end keeps, in bytes or as `64MiB`."
    )
