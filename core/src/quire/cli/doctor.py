"""`quire doctor`: what this machine has, what would be chosen on it, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quire.cli._render import to_json
from quire.cli.options import SettingsCommand, configuration, engine_options

if TYPE_CHECKING:
    from quire.engine.doctor import DoctorReport

__all__ = ["command"]


@click.command("doctor", cls=SettingsCommand)
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@engine_options
def command(model: str | None, as_json: bool) -> None:
    """Examine this machine and, if MODEL is given, what would run it.

    For each kind of plugin: what would be chosen for this configuration, what was rejected, and why.
    The exit code is 1 if something stands in the way.
    """
    config = configuration(model)
    from quire.engine.doctor import examine  # imports torch

    report = examine(config)
    if as_json:
        click.echo(to_json(report.to_json()))
    else:
        _print(report)
    if report.problems:
        raise click.exceptions.Exit(1)


def _print(report: DoctorReport) -> None:
    for title, rows in report.sections:
        click.secho(title, bold=True)
        width = max((len(key) for key, _ in rows), default=0)
        for key, value in rows:
            click.echo(f"  {key.ljust(width)}  {value}")
    for choice in report.choices:
        click.secho(choice.kind, bold=True)
        click.echo(f"  need      {choice.need}")
        click.echo(f"  chosen    {choice.chosen or 'nothing'} ({choice.reason})")
        for name, reason in choice.rejected:
            click.echo(f"  rejected  {name}: {reason}")
    if report.problems:
        click.secho("Problems", bold=True)
        for problem in report.problems:
            click.echo(f"  {problem}")
