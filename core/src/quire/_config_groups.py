"""Groups of settings inside the engine's configuration. Knows values and bounds alone."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from quire._config_types import NOT_BOOL, Bytes, PluginKey

__all__ = ["PluginsConfig", "StructuredOutputsConfig"]


class PluginsConfig(BaseModel):
    """Which plugins may run, and their options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: list[str] | None = Field(
        default=None,
        description="Distributions whose plugins may be imported at all; null allows every installed one. "
        "Environment variable: `QUIRE_PLUGINS_ALLOW`, comma-separated.",
    )
    options: dict[PluginKey, dict[str, Any]] = Field(
        default_factory=dict,
        description='Options per plugin, as `"kind.name": {option: value}`; the plugin validates them.',
    )
    routes: list[str] = Field(
        default_factory=list,
        description="Route plugins that the server mounts. Installing one activates nothing.",
    )


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
