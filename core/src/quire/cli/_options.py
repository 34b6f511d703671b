"""Flags made from the settings themselves, so that a new setting is a flag without another line.

`engine_options` gives a command `--config` and a flag per `EngineConfig` field; `sampling_options`
one per `SamplingParams` field. Names are the fields' in kebab-case. Where both have a name (`seed`),
it is the request's, and the engine's is `--engine-seed`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from quire._config_sources import KeyPath, decode, read_file
from quire._config_types import Bytes, field_shape, shapes_of
from quire.cli._frame import current_registry
from quire.config import EngineConfig, PluginsConfig
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

_ENGINE, _SAMPLING, _FILE = "Engine options", "Sampling options", "Configuration file"
_EVERYTHING = "quire.help_all"
_RARE: frozenset[KeyPath] = frozenset(
    (name,)
    for name in (
        "deterministic",
        "generation_config",
        "kv_cache_dtype",
        "max_logprobs",
        "num_speculative_tokens",
        "pipeline_parallel_size",
        "scheduling_policy",
        "speculative_config",
        "speculative_model",
        "tensor_parallel_size",
        "trust_remote_code",
    )
) | {("plugins", "routes")}
_RARE_SAMPLING = {"use_beam_search", "length_penalty", "early_stopping"}


class SettingOption(click.Option):
    """A flag made from a setting; help lists it under its section."""

    def __init__(self, names: list[str], *, section: str, rare: bool, **rest: Any) -> None:
        super().__init__(names, **rest)
        self.section = section
        self.rare = rare

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The rare ones are in `--help-all` only."""
        return None if self.rare and not ctx.meta.get(_EVERYTHING) else super().get_help_record(ctx)


class SettingsCommand(click.Command):
    """A command whose help has its own options first, then those made from settings, by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections of options."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], _SAMPLING: [], _ENGINE: []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections[getattr(param, "section", "Options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def engine_options(command: Command) -> Command:
    """Adds `--config`, the engine's flags (the rare ones in `--help-all` only) and `--help-all`."""
    options = [
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            expose_value=False,
            callback=_keep(_FILE, "file"),
            help="YAML file of engine settings; flags and QUIRE_* variables win over it.",
        ),
        *_engine_flags(),
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
    return _add(command, list(_sampling_flags()))


def configuration(model: str | None = None) -> EngineConfig:
    """The engine's configuration as the running command's flags, the environment and `--config` give it.

    Args:
        model: wins over all of them, None to leave it to them.

    Raises:
        ConfigError: a setting is unknown, wrong, or not built yet.
    """
    meta = click.get_current_context().meta
    overrides: dict[str, Any] = {}
    for path, value in meta.get(_ENGINE, {}).items():
        target = overrides
        for key in path[:-1]:
            target = target.setdefault(key, {})
        target[path[-1]] = value
    if model is not None:
        overrides["model"] = model
    file = meta.get(_FILE, {}).get("file")
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
    given = click.get_current_context().meta.get(_SAMPLING, {})
    return dataclasses.replace(defaults, **{**fallbacks, **given})


def _add(command: Command, options: list[click.Option]) -> Command:
    # click's decorators keep parameters on the function, last one first, until @command collects them.
    params: list[click.Parameter] = getattr(command, "__click_params__", [])
    command.__click_params__ = [*params, *reversed(options)]  # type: ignore[attr-defined]
    return command


def _keep(
    store: str, key: object, read: Callable[[str], Any] | None = None
) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that remembers a given value in the context."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is None or value == ():
            return
        if read is not None:
            try:
                value = read(value)
            except (TypeError, ValueError) as error:
                raise click.BadParameter(str(error), ctx, param) from None
        ctx.meta.setdefault(store, {})[key] = value

    return callback


def _help_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_EVERYTHING] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def _engine_flags() -> Iterator[click.Option]:
    taken = {field.name for field in dataclasses.fields(SamplingParams)}
    for path, shape in shapes_of(EngineConfig).items():
        if path == ("model",):
            continue
        owner = PluginsConfig if path[0] == "plugins" else EngineConfig
        field = owner.model_fields[str(path[-1])]
        name = "_".join(str(key) for key in path)
        name = f"engine_{name}" if name in taken else name
        yield _flag(
            name,
            _click_type(field.annotation) if shape == "scalar" else shape,
            _ENGINE,
            path,
            text=field.description or "",
            rare=path in _RARE,
        )


def _sampling_flags() -> Iterator[click.Option]:
    hints = typing.get_type_hints(SamplingParams)
    texts = _attribute_texts(SamplingParams)
    for field in dataclasses.fields(SamplingParams):
        if not field.repr:  # filled by the engine, not by users
            continue
        kind = _sampling_type(hints[field.name])
        yield _flag(
            field.name,
            kind,
            _SAMPLING,
            field.name,
            text=texts.get(field.name, ""),
            rare=field.name in _RARE_SAMPLING,
        )


def _flag(name: str, kind: Any, store: str, key: object, *, text: str, rare: bool) -> click.Option:
    """An option that leaves nothing in the context's `store` unless it is given.

    Args:
        kind: a click type, "flag", "strings" (may be repeated), or what `_read` knows.
    """
    flag = "--" + name.replace("_", "-")
    text = text.replace("`", "").replace("null", "none")
    read = None
    extra: dict[str, Any] = {"type": kind}
    if kind == "flag":
        flag, extra = f"{flag}/--no-{flag[2:]}", {"default": None}
    elif kind == "strings":
        extra = {"type": str, "multiple": True}
        text = f"{text.rstrip('.')}. May be given several times.".removeprefix(". ")
    elif isinstance(kind, str):
        read = _read(kind)
        extra = {"metavar": "JSON" if kind in ("mapping", "biases") else "A,B,..."}
    return SettingOption(
        [flag, f"_{name}"],
        section=store,
        expose_value=False,
        callback=_keep(store, key, read),
        help=text,
        rare=rare,
        **extra,
    )


def _read(kind: str) -> Callable[[str], Any]:
    """What turns a flag's text into its value; raises ValueError or TypeError."""

    def ints(text: str) -> list[int]:
        return [int(part) for part in decode("list", text)]

    def biases(text: str) -> dict[int, float]:
        return {int(key): float(bias) for key, bias in decode("mapping", text).items()}

    readers: dict[str, Callable[[str], Any]] = {
        "ints": ints,
        "biases": biases,
        "list": functools.partial(decode, "list"),
        "mapping": functools.partial(decode, "mapping"),
    }
    return readers[kind]


def _click_type(annotation: Any) -> Any:
    """Numbers and choices fail as usage errors; all else, "2GiB" too, is for the configuration to judge."""
    arms = [arm for arm in _arms(annotation) if arm is not types.NoneType]
    if len(arms) == 1:
        if typing.get_origin(arms[0]) is Literal:
            return click.Choice(list(typing.get_args(arms[0])))
        if arms[0] in (int, float) and Bytes not in typing.get_args(annotation):
            return click.INT if arms[0] is int else click.FLOAT
    return click.STRING


def _arms(annotation: Any) -> Iterator[Any]:
    """The members of a union, without `Annotated`."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _arms(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for arm in typing.get_args(annotation):
            yield from _arms(arm)
    else:
        yield annotation


def _sampling_type(hint: Any) -> Any:
    arms = [arm for arm in _arms(hint) if arm is not types.NoneType]
    for arm in arms:
        if typing.get_origin(arm) is dict:
            return "biases"
        if typing.get_args(arm) == (int,):
            return "ints"
        if typing.get_args(arm) == (str,):
            return "strings"
    if field_shape(hint) == "flag":
        return "flag"
    return {int: click.INT, float: click.FLOAT}.get(arms[0], click.STRING)


def _attribute_texts(owner: type) -> dict[str, str]:
    """The texts under "Attributes:" of a docstring, by attribute."""
    _, _, block = (inspect.getdoc(owner) or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in block.splitlines():
        entry = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            texts |= dict.fromkeys(names, entry[2])
        elif line.startswith("     "):
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
        else:
            names = []
    return texts
