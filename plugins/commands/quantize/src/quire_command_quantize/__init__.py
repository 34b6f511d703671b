"""`quire quantize`, registered by hook like any other command."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import CommandSpec, hookimpl


@hookimpl
def quire_commands() -> Iterable[CommandSpec]:
    """The one command."""
    yield CommandSpec(
        name="quantize",
        api=1,
        target="quire_command_quantize.command:command",
        summary="Make a GPTQ, AWQ or int8 checkpoint with the tools for it.",
        order=80,
    )
