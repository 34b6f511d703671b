"""`quire plugins`: what is installed, where it comes from, and whether it can be used."""

from __future__ import annotations

from pathlib import Path

import click

from quire.cli._frame import current_registry
from quire.cli._render import to_json
from quire.plugins import OK, Found, PluginRegistry

__all__ = ["command"]

_WIDE = 400  # columns when nobody's terminal says otherwise: rows are for grep then, and never wrapped


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    expose_value=False,
    help="Honour `plugins.allow` of this configuration file.",
)
def command(as_json: bool) -> None:
    """List the installed plugins of every kind."""
    registry = current_registry()
    click.echo(_as_json(registry) if as_json else _as_table(registry))


def _name(found: Found) -> str:
    """The name users type; for a command, its words."""
    return str(getattr(found.spec, "path", found.spec.name))


def _as_json(registry: PluginRegistry) -> str:
    plugins = [
        {
            "kind": found.kind,
            "name": _name(found),
            "distribution": found.distribution,
            "version": found.version,
            "status": found.status,
            "summary": found.spec.summary,
            "api": found.spec.api,
            "priority": found.spec.priority,
            "target": found.spec.target,
        }
        for found in registry.found
    ]
    return to_json({"plugins": plugins, "skipped": list(registry.skipped)})


def _as_table(registry: PluginRegistry) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("kind", "name", "distribution", "version", "status", "summary"):
        table.add_column(title, overflow="fold")
    for found in registry.found:
        status = Text(found.status, style="" if found.status == OK else "yellow" if found.lacks else "red")
        table.add_row(
            found.kind,
            Text(_name(found)),
            found.distribution,
            found.version,
            status,
            Text(found.spec.summary),
        )
    for one in registry.skipped:
        table.add_row("-", "-", one.distribution, one.version, Text(one.reason, style="red"), "")
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines() if line.strip())
