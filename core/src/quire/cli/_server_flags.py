"""Flags of the commands that ask a running server. Imports no HTTP client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["server_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def server_options(*, required: bool) -> Callable[[Command], Command]:
    """Adds `--url`, `--model` and `--api-key`.

    Args:
        required: whether the command can do nothing without a server.
    """

    def add(command: Command) -> Command:
        for option in reversed(
            [
                click.option(
                    "--url",
                    metavar="URL",
                    required=required,
                    help="Address of a running server, such as http://127.0.0.1:8000.",
                ),
                click.option(
                    "--model",
                    "server_model",
                    metavar="NAME",
                    help="Model to ask the server for; its first if left out.",
                ),
                click.option(
                    "--api-key",
                    metavar="KEY",
                    envvar="QUIRE_API_KEY",
                    show_envvar=True,
                    help="Key that the server wants.",
                ),
            ]
        ):
            command = option(command)
        return command

    return add
