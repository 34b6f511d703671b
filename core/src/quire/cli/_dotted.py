"""Nested settings as vLLM's users write them: `--flag.key value`, `--flag.key.deeper value`, `--flag.key+ a`.

Rewrites each to a flag that the command has: a key within a JSON flag becomes JSON for it, whose texts are
then merged; a setting of a group (`--plugins.allow`) becomes that setting's own flag (`--plugins-allow`).
Knows flags and JSON; knows no setting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from quire._config_sources import decode
from quire.cli._setting_option import SettingOption

__all__ = ["HINT", "merge_texts", "rewrite"]

HINT = "JSON flags take keys: --hf-overrides.rope_theta 1e6; lists: --FLAG.KEY+ A,B"


def rewrite(arguments: Sequence[str], options: Sequence[click.Option]) -> list[str]:
    """The arguments without dotted flags, which are those of the options that are `SettingOption`s.

    Raises:
        click.UsageError: a dotted flag has no value, no such key, or is no list.
    """
    values = {name for option in options if not option.is_flag for name in option.opts}
    known = {name: one for one in options if isinstance(one, SettingOption) for name in one.spellings}
    rewritten: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if argument == "--":
            return [*rewritten, argument, *waiting]
        if argument in values:  # what follows is its value, whatever it looks like
            rewritten += [argument, *_next(waiting)]
        elif not name.startswith("--") or "." not in name:
            rewritten.append(argument)
        else:
            found = _find(name, known)
            given = [value] if equals else _next(waiting)
            if found is None:
                rewritten += [argument] if equals else [argument, *given]
            elif not given:
                raise click.BadOptionUsage(name, f"Option {name!r} requires an argument.")
            else:
                rewritten.append(_as_flag(name, *found, given[0]))
    return rewritten


def merge_texts(texts: Sequence[str]) -> dict[str, Any]:
    """The mapping that JSON texts come to together: keys are joined, lists follow each other.

    Raises:
        ValueError: a text is no JSON object, or two give different values to one key.
    """
    merged: dict[str, Any] = {}
    for text in texts:
        _merge(merged, decode("mapping", text), ())
    return merged


def _next(waiting: Iterator[str]) -> list[str]:
    """The next argument, if there is one."""
    return [argument for argument in (next(waiting, None),) if argument is not None]


def _find(name: str, known: Mapping[str, SettingOption]) -> tuple[SettingOption, list[str]] | None:
    """The flag that a dotted name belongs to, and the words behind it; None for a name that is nobody's."""
    words = name.removesuffix("+").split(".")
    for length in range(len(words), 0, -1):
        option = known.get(_kebab(".".join(words[:length])))
        if option is not None:
            return option, words[length:]
    group = [spelling for spelling in known if spelling.startswith(_kebab(words[0]) + ".")]
    if group:
        raise click.UsageError(f"No such option: {name}. Choose one of: {', '.join(sorted(group))}.")
    return None


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _as_flag(name: str, option: SettingOption, words: list[str], value: str) -> str:
    flag, size = option.opts[0], option.key_words
    adds = name.endswith("+")
    if not words and not adds:
        return f"{flag}={value}"
    if not size or not words:
        kind = "is no list within JSON" if size else "holds no mapping, and has no keys"
        raise click.UsageError(f"No such option: {name}. {flag} {kind}.")
    if "" in words or len(words) < size:
        pattern = ".".join(["KEY"] * size)
        raise click.UsageError(f"No such option: {name}. Write it as {flag}.{pattern}.")
    nested: Any = [_value(part) for part in value.split(",")] if adds else _value(value)
    for key in reversed([".".join(words[:size]), *words[size:]]):
        nested = {key: nested}
    return f"{flag}={json.dumps(nested)}"


def _value(text: str) -> Any:
    """What a text stands for: JSON, where it is that, else itself."""

    def no_number(name: str) -> float:
        raise ValueError(name)  # "NaN" is somebody's name rather than JSON

    try:
        return json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError):
        return text


def _merge(into: dict[str, Any], more: Mapping[str, Any], path: tuple[str, ...]) -> None:
    for key, value in more.items():
        here = (*path, key)
        old = into.get(key)
        if key not in into:
            into[key] = value
        elif isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value, here)
        elif isinstance(old, list) and isinstance(value, list):
            old.extend(value)
        elif old != value:
            raise ValueError(f"{'.'.join(here)!r} is given twice, as {old!r} and as {value!r}")
