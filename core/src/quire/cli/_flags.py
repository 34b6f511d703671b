"""How a setting becomes a flag: its name in kebab-case, its type, its text, its section of the help.

Where both the engine and a request have a name (`seed`), it is the request's, and the engine's is
`--engine-seed`; a name that a command's section shares with either is `--SECTION-NAME`. A flag that is
given leaves its value in the click context: a sampling parameter under its name, a setting under its path.
What stands between dots behind a flag is `_dotted`'s.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from quire._config_sources import KeyPath, decode
from quire._config_types import Bytes, PluginKey, field_shape, parse_bytes, shapes_of
from quire.cli._dotted import HINT, merge_texts, rewrite
from quire.cli._setting_option import SectionOption, SettingOption
from quire.config import EngineConfig
from quire.sampling_params import SamplingParams

__all__ = [
    "ENGINE",
    "FILE",
    "SAMPLING",
    "SettingsCommand",
    "engine_flags",
    "keep",
    "sampling_flags",
    "section_flags",
]

ENGINE, SAMPLING, FILE = "Engine options", "Sampling options", "Configuration file"
_RARE_GRAMMAR: frozenset[KeyPath] = frozenset(
    ("structured_outputs", name) for name in ("compile_timeout", "max_source_bytes", "cache_bytes")
)
_RARE: frozenset[KeyPath] = frozenset(
    (name,)
    for name in (
        "block_size",
        "cpu_pinning",
        "deterministic",
        "enable_chunked_prefill",
        "enforce_eager",
        "generation_config",
        "guided_decoding_backend",
        "hf_overrides",
        "kernels",
        "kv_cache_dtype",
        "load_format",
        "logits_processors",
        "max_logprobs",
        "ngram_prompt_lookup_max",
        "ngram_prompt_lookup_min",
        "num_speculative_tokens",
        "pipeline_parallel_size",
        "sampler",
        "scheduling_policy",
        "seed",
        "speculative_config",
        "speculative_model",
        "structured_outputs_config",
        "tensor_parallel_size",
        "tokenizer",
        "trust_remote_code",
    )
) | {("plugins", "allow"), ("plugins", "options"), ("plugins", "routes"), *_RARE_GRAMMAR}
_METAVARS = {"mapping": "JSON", "biases": "JSON", "switch": "TRUE|FALSE|WORD"}
_MAPPINGS = {"mapping", "biases"}
_NO_VALUES = {"structured_outputs", "guided_decoding"}
"""Sampling parameters that no flag can hold: a form is given by flags of its own."""
_RARE_SAMPLING = {"use_beam_search", "length_penalty", "early_stopping"}


class SettingsCommand(click.Command):
    """A command whose help has its own options first, then those made from settings, by section.

    Nested settings may be written with dots, see `_dotted`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the arguments, dotted ones as the flags that they stand for."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        try:
            args = rewrite(args, options)
        except click.UsageError as error:
            error.ctx = ctx
            if not ctx.resilient_parsing:  # a shell that completes has half a line
                raise
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections of options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        last = (SAMPLING, ENGINE)
        titles = ["Options", *(title for title in sections if title not in ("Options", *last)), *last]
        for title in titles:
            records = sections.get(title)
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
                    if title == ENGINE:
                        formatter.write_text(HINT)


def engine_flags() -> Iterator[click.Option]:
    taken = {field.name for field in dataclasses.fields(SamplingParams)}
    for path, shape in shapes_of(EngineConfig).items():
        if path == ("model",):
            continue
        field = EngineConfig.model_fields[str(path[0])]
        if len(path) > 1:
            owner: type[BaseModel] = field.annotation  # type: ignore[assignment]  # `shapes_of` says so
            field = owner.model_fields[str(path[1])]
        name = "_".join(str(key) for key in path)
        name = f"engine_{name}" if name in taken else name
        yield _flag(
            name,
            _click_type(field) if shape == "scalar" else shape,
            (ENGINE, path),
            section=ENGINE,
            text=field.description or "",
            rare=path in _RARE,
            dotted=None if len(path) == 1 else "--" + ".".join(str(key) for key in path).replace("_", "-"),
            key_words=_key_words(field.annotation) if shape == "mapping" else 0,
        )


def sampling_flags() -> Iterator[click.Option]:
    hints = typing.get_type_hints(SamplingParams)
    texts = _attribute_texts(SamplingParams)
    for field in dataclasses.fields(SamplingParams):
        if not field.repr or field.name in _NO_VALUES:  # the engine's to fill
            continue
        kind = _sampling_type(hints[field.name])
        yield _flag(
            field.name,
            kind,
            (SAMPLING, field.name),
            section=SAMPLING,
            text=_sentence(texts.get(field.name, "")),
            rare=field.name in _RARE_SAMPLING,
        )


def section_flags(
    section: str, model: type[BaseModel], *, title: str, everyday: Collection[str] | None
) -> Iterator[click.Option]:
    """A flag for each field of a section's model; the field must be a flag, a list, a mapping or a scalar.

    Args:
        everyday: fields that plain `--help` shows; None for all.
    """
    taken = {"--config", "--help", "--help-all"}
    for other in (*engine_flags(), *sampling_flags()):
        taken |= {*other.opts, *other.secondary_opts}
    for name, field in model.model_fields.items():
        shape = field_shape(field.annotation)
        kind = {"scalar": _click_type(field), "list": "strings"}.get(shape, shape)
        word = name[:-1] if shape == "list" and name.endswith("s") and not name.endswith("ss") else name
        prefix = "" if "--" + word.replace("_", "-") not in taken else f"{section}_"
        yield _flag(
            f"{prefix}{word}",
            kind,
            (ENGINE, (section, name)),
            section=title,
            text=field.description or "",
            rare=everyday is not None and name not in everyday,
            make=functools.partial(SectionOption, section_name=section, section_model=model),
        )


def _flag(
    name: str,
    kind: Any,
    place: tuple[str, object],
    *,
    section: str,
    text: str,
    rare: bool,
    dotted: str | None = None,
    key_words: int = 1,
    make: Callable[..., SettingOption] = SettingOption,
) -> click.Option:
    """An option that leaves nothing in the context unless it is given.

    Args:
        kind: a click type, "flag", "strings" (may be repeated), or what `_read` knows.
        place: store in the context's meta, and key in it.
        dotted: its other spelling, None if it has none.
        key_words: as `SettingOption` has it; only a mapping has keys.
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
        extra = {"metavar": _METAVARS.get(kind, "A,B,..."), "multiple": kind in _MAPPINGS}
    return make(
        [flag, f"_{name}"],
        section=section,
        expose_value=False,
        callback=keep(*place, read),
        help=text,
        rare=rare,
        dotted=dotted,
        key_words=key_words if kind in _MAPPINGS else 0,
        **extra,
    )


def keep(
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


def _read(kind: str) -> Callable[[Any], Any]:
    """What turns a flag's text, a mapping's texts, into its value; raises ValueError or TypeError."""

    def ints(text: str) -> list[int]:
        return [int(part) for part in decode("list", text)]

    def biases(texts: Sequence[str]) -> dict[int, float]:
        return {int(key): float(bias) for key, bias in merge_texts(texts).items()}

    readers: dict[str, Callable[[Any], Any]] = {
        "ints": ints,
        "biases": biases,
        "list": functools.partial(decode, "list"),
        "mapping": merge_texts,
        "switch": lambda text: {"true": True, "false": False}.get(text, text),
    }
    return readers[kind]


def _click_type(field: FieldInfo) -> Any:
    """Numbers and choices fail as usage errors; all else, "2GiB" too, is for the configuration to judge."""
    arms = [arm for arm in _arms(field.annotation) if arm is not types.NoneType]
    in_bytes = Bytes in typing.get_args(field.annotation) or any(
        getattr(check, "func", None) is parse_bytes for check in field.metadata
    )
    if len(arms) == 1:
        if typing.get_origin(arms[0]) is Literal:
            return click.Choice(list(typing.get_args(arms[0])))
        if arms[0] in (int, float) and not in_bytes:
            return click.INT if arms[0] is int else click.FLOAT
    return click.STRING


def _key_words(annotation: Any) -> int:
    """Words between dots that make a key of a mapping: a plugin's has two, `kind.name`."""
    for arm in _arms(annotation):
        if typing.get_origin(arm) is dict and typing.get_args(arm)[0] == PluginKey:
            return 2
    return 1


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
            return "biases" if typing.get_args(arm)[0] is int else "mapping"
        if typing.get_args(arm) == (int,):
            return "ints"
        if typing.get_args(arm) == (str,):
            return "strings"
    if field_shape(hint) == "flag":
        return "flag"
    if bool in arms:
        return "switch"
    return {int: click.INT, float: click.FLOAT}.get(arms[0], click.STRING)


def _sentence(text: str) -> str:
    """A docstring's phrase as help text."""
    return text[:1].upper() + text[1:]


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
