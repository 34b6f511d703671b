"""Flags for commands, and what was given by them. Public: commands of other packages are made with it.

`engine_options` gives a command `--config` and a flag per `EngineConfig` field, `sampling_options`
one per `SamplingParams` field, `section_options` one per field of the command's own section of the
configuration: made from the fields, so that a new setting is a flag without another line.

    @click.command("serve", cls=SettingsCommand)
    @click.argument("model", required=False)
    @section_options("serve", ServeConfig, title="Server options", everyday=("host", "port"))
    @engine_options
    def command(model: str | None) -> None:
        config = configuration(model)
        section = config.sections["serve"]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel

from quire._config_file import read_file
from quire.cli._flags import (
    ENGINE,
    FILE,
    SAMPLING,
    SettingsCommand,
    engine_flags,
    keep,
    sampling_flags,
    section_flags,
)
from quire.cli._frame import current_registry
from quire.cli._setting_option import EVERYTHING, SectionOption
from quire.config import EngineConfig
from quire.plugin_plan import import_target
from quire.plugins import OK
from quire.sampling_params import SamplingParams

__all__ = [
    "SettingsCommand",
    "configuration",
    "current_registry",
    "engine_flags_given",
    "engine_options",
    "given_sampling",
    "installed_sections",
    "sampling_from",
    "sampling_options",
    "section_options",
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


def section_options(
    name: str,
    model: type[BaseModel],
    *,
    title: str = "Server options",
    everyday: Collection[str] | None = None,
) -> Callable[[Command], Command]:
    """Adds a flag for each field of a section of the configuration, for a command of `SettingsCommand`.

    A list's flag has the singular name and may be repeated (`api_keys`: `--api-key`); a field whose flag
    the engine or a request has already is `--NAME-FIELD`. `configuration` then validates the section,
    defaults < file < environment (`QUIRE_NAME__FIELD`) < flags, also when the file has none, and gives it
    as `config.sections[name]`.

    Args:
        name: the section's key in the configuration file, which is the command's name.
        model: what validates it: the `options` of the command's spec.
        title: heading of its flags in the help text.
        everyday: fields whose flags `--help` shows; the others are in `--help-all` only. None for all.

    Raises:
        ValueError: `everyday` names no field.
    """
    unknown = set(everyday or ()) - set(model.model_fields)
    if unknown:
        raise ValueError(f"{model.__name__} has no field {sorted(unknown)[0]!r}")

    def add(command: Command) -> Command:
        return _add(command, list(section_flags(name, model, title=title, everyday=everyday)))

    return add


def configuration(model: str | None = None) -> EngineConfig:
    """The engine's configuration as the running command's flags, the environment and `--config` give it.

    Args:
        model: wins over all of them, None to leave it to them.

    Its `sections` are the command's own, and whatever others the file holds.

    Raises:
        ConfigError: a setting is unknown, wrong, or not built yet.
    """
    context = click.get_current_context()
    meta = context.meta
    overrides: dict[str, Any] = {}
    for path, value in meta.get(ENGINE, {}).items():
        target = overrides
        for key in path[:-1]:
            target = target.setdefault(key, {})
        target[path[-1]] = value
    if model is not None:
        overrides["model"] = model
    file = meta.get(FILE, {}).get("file")
    own = {
        option.section_name: option.section_model
        for option in context.command.params
        if isinstance(option, SectionOption)
    }
    return EngineConfig.load(
        file, sections={**sections_in(file), **own}, environ=None, origin="command line", **overrides
    )


def installed_sections() -> dict[str, type[BaseModel]]:
    """Every installed command's section: its `options` model, under its name.

    Raises:
        PluginError: a section's model cannot be imported.
    """
    return {
        found.spec.name: import_target("command", found.spec.name, found.spec.options)
        for found in current_registry().of_kind("command")
        if found.status == OK and found.spec.options is not None
    }


def sections_in(file: Path | None) -> dict[str, type[BaseModel]]:
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


def engine_flags_given() -> bool:
    """Whether the running command was given `--config` or a flag of the engine."""
    meta = click.get_current_context().meta
    return bool(meta.get(ENGINE) or meta.get(FILE))


def given_sampling(**fallbacks: Any) -> dict[str, Any]:
    """The sampling parameters that the running command's flags set, over its own defaults."""
    return {**fallbacks, **click.get_current_context().meta.get(SAMPLING, {})}


def sampling_from(defaults: SamplingParams, **fallbacks: Any) -> SamplingParams:
    """The model's default sampling parameters with the running command's flags over them.

    Args:
        defaults: what the model suggests.
        **fallbacks: the command's own defaults, over the model's and under the flags.

    Raises:
        InvalidRequestError: a value is out of range.
    """
    return defaults.over(**given_sampling(**fallbacks))


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
