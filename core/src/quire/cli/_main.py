"""The entry point `quire`: finds the commands, runs one, and turns errors into messages and exit codes.

0 success, 1 an error of Quire's tree, 2 wrong usage, 130 interrupted, 141 the reader of our output
went away. Knows no command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from quire._config_sources import allowed_in_environment, decode
from quire.cli._frame import root_group
from quire.errors import ConfigError, QuireError
from quire.plugins import discover

__all__ = ["main"]

_INTERRUPTED = 128 + 2  # SIGINT
_BROKEN_PIPE = 128 + 13  # SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run `quire` with these arguments (`sys.argv`'s by default) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_traceback = arguments[:1] == ["--traceback"]
    try:
        registry = discover(allow=_allowed(arguments, os.environ))
        status = root_group(registry).main(arguments, prog_name="quire", standalone_mode=False, obj=registry)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return _BROKEN_PIPE
    except QuireError as error:
        if show_traceback:
            raise
        for line in str(error).splitlines() or [type(error).__name__]:
            click.echo(f"error: {line}", err=True)
        return 1


def _discard_stdout() -> None:
    """Points stdout at nothing, so that the interpreter's last flush does not fail as well."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _allowed(arguments: Sequence[str], environ: Mapping[str, str]) -> list[str] | None:
    """`plugins.allow` as flags, environment and `--config` give it, needed before any plugin is imported.

    A file that cannot be read is left to the command to complain about.
    """
    flag = _option(arguments, "--plugins-allow", "--plugins.allow")
    if flag is not None:
        return decode("list", flag)  # type: ignore[no-any-return]
    allow = allowed_in_environment(environ)
    file = _option(arguments, "--config")
    if allow is not None or file is None:
        return allow
    from quire._config_file import allowed_in_file  # imports yaml, which most calls can do without

    try:
        return allowed_in_file(Path(file))
    except ConfigError:
        return None


def _option(arguments: Sequence[str], *names: str) -> str | None:
    """The last value of an option with one of these names, written `--name value` or `--name=value`."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        name, equals, text = argument.partition("=")
        if name in names and equals:
            value = text
        elif name in names and index + 1 < len(arguments):
            value = arguments[index + 1]
    return value
