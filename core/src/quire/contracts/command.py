"""The command contract: a subcommand of `quire`."""

from __future__ import annotations

from dataclasses import dataclass

from quire.contracts.base import PluginSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec(PluginSpec):
    """Description of a subcommand; `target` is a `click.Command`, imported when it is run.

    `quire --help` is drawn from `name` and `summary` alone. A command with an `options` model thereby
    adds a section of its own name to the configuration file (`serve:`), which that model validates.

    Attributes:
        group: a group of the core's ("bench") it belongs to; None for the top level.
        order: position in the help text; the core's own use 10, 20, 30 ...
    """

    group: str | None = None
    order: int = 500

    @property
    def path(self) -> str:
        """The words a user types, e.g. "bench offline"."""
        return self.name if self.group is None else f"{self.group} {self.name}"
