"""`quire config`: the schema of the configuration, a check of a file, and the values in effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from quire.cli._render import to_json
from quire.cli.options import installed_sections, sections_in
from quire.config import EngineConfig

__all__ = ["command", "effective", "setting_lines"]


@click.command("config")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration file.")
@click.option(
    "--check", type=click.Path(path_type=Path), metavar="FILE", help="Validate a file, and nothing beside it."
)
@click.option("--show", is_flag=True, help="Print every setting in effect, and where it comes from.")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Configuration file for --show."
)
@click.option("--json", "as_json", is_flag=True, help="With --show, print JSON.")
def command(schema: bool, check: Path | None, show: bool, file: Path | None, as_json: bool) -> None:
    """Look at the configuration. Use exactly one of --schema, --check and --show."""
    if schema + (check is not None) + show != 1:
        raise click.UsageError("Use exactly one of --schema, --check and --show.")
    if (file is not None or as_json) and not show:
        raise click.UsageError("--config and --json go with --show.")
    if schema:
        click.echo(to_json(EngineConfig.json_schema(installed_sections())))
    elif check is not None:
        EngineConfig.load(check, sections=sections_in(check), environ={})
        click.echo(f"{check}: ok")
    else:
        _show(EngineConfig.load(file, sections=installed_sections()), as_json)


def effective(config: EngineConfig) -> list[tuple[str, Any, str]]:
    """Name, value as JSON has it, and origin of every setting; secrets are masked."""
    plain: dict[str, Any] = config.model_dump(mode="json")
    plain |= {name: section.model_dump(mode="json") for name, section in config.sections.items()}
    rows = []
    for name, origin in config.origins().items():
        value: Any = plain
        for key in name.split("."):
            value = value[key]
        rows.append((name, value, origin))
    return rows


def _show(config: EngineConfig, as_json: bool) -> None:
    rows = effective(config)
    if as_json:
        click.echo(to_json({name: {"value": value, "origin": origin} for name, value, origin in rows}))
        return
    for line in setting_lines(rows):
        click.echo(line)


def setting_lines(rows: list[tuple[str, Any, str]]) -> list[str]:
    """Settings as a table of name, value and origin."""
    texts = [
        (name, to_json(value, indent=None) if not isinstance(value, str) else value, origin)
        for name, value, origin in rows
    ]
    wide = [max((len(row[column]) for row in texts), default=0) for column in (0, 1)]
    return [f"{name.ljust(wide[0])}  {text.ljust(wide[1])}  {origin}" for name, text, origin in texts]
