"""Groups of commands that are drawn from specs; a command's module is imported when it runs.

Knows `CommandSpec` and click. Knows no command, no engine and no configuration.
"""

from __future__ import annotations

from collections import defaultdict
from typing import cast

import click
from click.shell_completion import CompletionItem

import quire
from quire.contracts.command import CommandSpec
from quire.errors import PluginError
from quire.plugins import OK, Found, PluginRegistry, discover

__all__ = ["GROUPS", "PluginGroup", "current_registry", "root_group"]

GROUPS = {"bench": ("Measure throughput and latency.", 60)}
"""The core's command groups: summary, and position in the help text. Plugins may add commands to them."""

_AS_FLAG = {("bench", "--profile"): "profile"}
"""Commands of a group that can also be asked for as a flag of the group."""


class PluginGroup(click.Group):
    """A group whose commands are plugins of the kind "command".

    Args:
        registry: what is installed.
        group: the group's name, None for the top level.
    """

    def __init__(self, registry: PluginRegistry, group: str | None, summary: str) -> None:
        super().__init__(name=group, help=summary)
        self._registry = registry
        self._plugins: dict[str, list[Found]] = defaultdict(list)
        self._unusable: list[tuple[Found, str]] = []
        for found in registry.of_kind("command"):
            spec = _spec(found)
            if spec.group == group:
                if found.status == OK:
                    self._plugins[spec.name].append(found)
                else:
                    self._unusable.append((found, found.status))
            elif group is None and spec.group is not None and spec.group not in GROUPS:
                self._unusable.append((found, f"its group {spec.group!r} is not one of: {', '.join(GROUPS)}"))
        if group is None:
            for name, (text, _) in GROUPS.items():
                self.add_command(PluginGroup(registry, name, text), name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A command may be spelt as a flag: `quire bench --profile`."""
        if args and (command := _AS_FLAG.get((self.name or "", args[0]))) is not None:
            args = [command, *args[1:]]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help text."""
        return [name for name, _, _ in sorted(self._rows(), key=lambda row: (row[1], row[0]))]

    def _rows(self) -> list[tuple[str, int, str]]:
        """Name, order and summary of each command and subgroup."""
        rows = [(name, GROUPS[name][1], GROUPS[name][0]) for name in self.commands]
        for name, plugins in self._plugins.items():
            spec = _spec(plugins[0])
            rows.append((name, spec.order, spec.summary))
        return rows

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names that begin so, from specs alone: completing a word imports no command."""
        rows = {name: summary for name, _, summary in self._rows()}
        items = [
            CompletionItem(name, help=rows[name])
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            PluginError: two distributions have it, it cannot be used, or it is not a command.
        """
        plugins = self._plugins.get(cmd_name, [])
        if len(plugins) > 1 or (plugins and cmd_name in self.commands):
            owners = [found.distribution for found in plugins]
            owners += ["quire"] if cmd_name in self.commands else []
            raise PluginError(
                f"The command {_spec(plugins[0]).path!r} comes from {' and '.join(owners)}. "
                "Uninstall one, or restrict plugins.allow."
            )
        if not plugins:
            for found, reason in self._unusable:
                if found.spec.name == cmd_name:
                    raise PluginError(f"command {found.qualified} cannot be used: {reason}.")
            return self.commands.get(cmd_name)
        command = self._registry.load(plugins[0])
        if not isinstance(command, click.Command):
            raise PluginError(
                f"command {plugins[0].qualified}: {plugins[0].spec.target} is a "
                f"{type(command).__name__}; it must be a click.Command."
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from specs alone; what cannot be used is said, not left out."""
        rows = {name: summary for name, _, summary in self._rows()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, rows[name]) for name in self.list_commands(ctx)])
        if self._unusable:
            with formatter.section("Not usable"):
                formatter.write_dl([(_spec(found).path, reason) for found, reason in self._unusable])


def _spec(found: Found) -> CommandSpec:
    return cast(CommandSpec, found.spec)  # discovery holds the kind "command" to this class


def root_group(registry: PluginRegistry) -> PluginGroup:
    """The command `quire`."""
    group = PluginGroup(
        registry, None, "An LLM inference and serving engine in which everything is a plugin."
    )
    group.params += [
        click.Option(
            ["--traceback"],
            is_flag=True,
            expose_value=False,
            help="Show where an error comes from. Must come first.",
        )
    ]
    return click.version_option(quire.__version__, prog_name="quire")(group)


def current_registry() -> PluginRegistry:
    """What the running command's frame discovered."""
    registry = click.get_current_context().find_root().obj
    return registry if isinstance(registry, PluginRegistry) else discover()
