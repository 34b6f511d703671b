"""`quire doctor`: what this machine has, what would be chosen on it, and why."""

from __future__ import annotations

import click

from quire.cli._options import configuration, engine_options

__all__ = ["command"]


@click.command("doctor")
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@engine_options
def command(model: str | None, as_json: bool) -> None:
    """Examine this machine and, if MODEL is given, what would run it.

    For each kind of plugin: what would be chosen for this configuration, what was rejected, and why.
    """
    config = configuration(model)
    from quire.engine.doctor import examine  # imports torch

    report = examine(config)
    if as_json:
        click.echo(report.to_json())
        return
    for title, rows in report.sections:
        click.secho(title, bold=True)
        width = max((len(key) for key, _ in rows), default=0)
        for key, value in rows:
            click.echo(f"  {key.ljust(width)}  {value}")
    for choice in report.choices:
        click.secho(choice.kind, bold=True)
        click.echo(f"  need      {choice.need}")
        click.echo(f"  chosen    {choice.chosen or 'nothing'}")
        for name, reason in choice.rejected:
            click.echo(f"  rejected  {name}: {reason}")
