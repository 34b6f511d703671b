"""Flags that ask for a form of the output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from quire.cli._flags import SAMPLING, keep
from quire.cli._setting_option import SettingOption
from quire.structured_outputs import StructuredOutputsParams

__all__ = ["form_options", "given_form"]

Command = TypeVar("Command", bound=Callable[..., Any])

_FORM = "Form of the output"


def form_options(command: Command) -> Command:
    """Adds `--json-schema`, `--regex`, `--choice` and `--grammar`; `given_form` tells what was given."""
    flags = (
        _flag("json", "--json-schema", "FILE|JSON", "JSON that follows a schema.", _text),
        _flag("regex", "--regex", "PATTERN", "Text that a regular expression matches."),
        _flag(
            "choice", "--choice", "TEXT", "One of these texts. Give it once for each.", list, multiple=True
        ),
        _flag(
            "grammar",
            "--grammar",
            "FILE|TEXT",
            "Text of a grammar, in llama.cpp's or Lark's notation.",
            _text,
        ),
    )
    params: list[click.Parameter] = getattr(command, "__click_params__", [])
    command.__click_params__ = [*params, *reversed(flags)]  # type: ignore[attr-defined]
    return command


def given_form() -> dict[str, Any] | None:
    """What the running command's flags say of the form, by the names of `StructuredOutputsParams`.

    Raises:
        click.UsageError: several flags say it.
        InvalidRequestError: it is none.
    """
    given: dict[str, Any] = click.get_current_context().meta.get(_FORM, {})
    if len(given) > 1:
        raise click.UsageError("Give one of --json-schema, --regex, --choice and --grammar.")
    if given:
        StructuredOutputsParams(**given)
    return given or None


def _flag(
    name: str, flag: str, metavar: str, text: str, read: Callable[[Any], Any] | None = None, **more: Any
) -> click.Option:
    return SettingOption(
        [flag, f"_form_{name}"],
        section=SAMPLING,
        rare=False,
        expose_value=False,
        callback=keep(_FORM, name, read),
        metavar=metavar,
        help=text,
        **more,
    )


def _text(given: str) -> str:
    """What a flag says, or the file that it names."""
    if given.lstrip()[:1] in ("{", "[") or "::=" in given or "\n" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {given!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{given!r} is not UTF-8 text") from None
