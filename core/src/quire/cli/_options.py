"""Flags for commands that open an engine, and what was given by them.

`engine_options` gives a command `--config` and a flag per `EngineConfig` field; `sampling_options`
one per `SamplingParams` field: made from the fields, so that a new setting is a flag without another line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from quire._config_file import read_file
from quire.cli._flags import (
    ENGINE,
    EVERYTHING,
    FILE,
    SAMPLING,
    SettingsCommand,
    engine_flags,
    keep,
    sampling_flags,
)
from quire.cli._frame import current_registry
from quire.config import EngineConfig
from quire.plugin_plan import import_target
from quire.plugins import OK
from quire.sampling import SamplingParams

__all__ = [
    "SettingsCommand",
    "configuration",
    "engine_options",
    "sampling_from",
    "sampling_options",
    "sections_in",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def engine_options(command: Command) -> Command:
    """Adds `--config`, the engine's flags (the rare ones in `--help-all` only) and `--help-all`."""
    options = [
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            expose_value=False,
            callback=keep(FILE, "file"),
            help="YAML file of engine settings; flags and QUIRE_* variables win over it.",
        ),
        *engine_flags(),
        click.Option(
            ["--help-all"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_help_all,
            help="Show every flag, the rarely used ones too.",
        ),
    ]
    return _add(command, options)


def sampling_options(command: Command) -> Command:
    """Adds a flag for each sampling parameter."""
    return _add(command, list(sampling_flags()))


def configuration(model: str | None = None) -> EngineConfig:
    """The engine's configuration as the running command's flags, the environment and `--config` give it.

    Args:
        model: wins over all of them, None to leave it to them.

    Raises:
        ConfigError: a setting is unknown, wrong, or not built yet.
    """
    meta = click.get_current_context().meta
    overrides: dict[str, Any] = {}
    for path, value in meta.get(ENGINE, {}).items():
        target = overrides
        for key in path[:-1]:
            target = target.setdefault(key, {})
        target[path[-1]] = value
    if model is not None:
        overrides["model"] = model
    file = meta.get(FILE, {}).get("file")
    return EngineConfig.load(
        file, sections=sections_in(file), environ=None, origin="command line", **overrides
    )


def sections_in(file: Path | None) -> dict[str, type[Any]]:
    """Models of the sections that a file holds: a command's `options` model is the section of its name.

    Raises:
        ConfigError: the file cannot be read.
        PluginError: a section's model cannot be imported.
    """
    if file is None:
        return {}
    present = read_file(file).values
    return {
        found.spec.name: import_target("command", found.spec.name, found.spec.options)
        for found in current_registry().of_kind("command")
        if found.status == OK and found.spec.options is not None and found.spec.name in present
    }


def sampling_from(defaults: SamplingParams, **fallbacks: Any) -> SamplingParams:
    """The model's default sampling parameters with the running command's flags over them.

    Args:
        defaults: what the model suggests.
        **fallbacks: the command's own defaults, over the model's and under the flags.

    Raises:
        InvalidRequestError: a value is out of range.
    """
    given = click.get_current_context().meta.get(SAMPLING, {})
    return dataclasses.replace(defaults, **{**fallbacks, **given})


def _add(command: Command, options: Sequence[click.Option]) -> Command:
    # click's decorators keep parameters on the function, last one first, until @command collects them.
    params: list[click.Parameter] = getattr(command, "__click_params__", [])
    command.__click_params__ = [*params, *reversed(options)]  # type: ignore[attr-defined]
    return command


def _help_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[EVERYTHING] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
