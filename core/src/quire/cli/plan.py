"""`quire plan`: a dry run. What a start with these settings would take, and whether it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from quire._config_types import parse_bytes
from quire.cli._render import to_json
from quire.cli.config import effective, setting_lines
from quire.cli.options import SettingsCommand, configuration, engine_options

if TYPE_CHECKING:
    from quire.engine.planning.forecast import Forecast

__all__ = ["command"]


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes as a number or such as "24GiB"."""
    if value is None:
        return None
    try:
        count = int(str(parse_bytes(value)))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if count <= 0:
        raise click.BadParameter(f"must be more than 0, got {value!r}", ctx, param)
    return count


@click.command("plan", cls=SettingsCommand)
@click.argument("model", required=False)
@click.option(
    "--memory",
    callback=_bytes,
    metavar="BYTES",
    help="Plan for a device with this much free memory, such as 24GiB, instead of this machine's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@engine_options
def command(model: str | None, memory: int | None, as_json: bool) -> None:
    """Tell what MODEL would take, and what would fit, without loading it.

    Reads config.json and the headers of the safetensors files alone; of a model on the hub nothing else
    is fetched. The exit code is 1 if it does not fit.
    """
    config = configuration(model)
    from quire.engine.planning.forecast import forecast  # imports torch

    found = forecast(config, memory=memory)
    if as_json:
        click.echo(to_json(_as_json(found)))
    else:
        _print(found)
    if found.problem is not None:
        raise click.exceptions.Exit(1)


def _given(found: Forecast) -> list[tuple[str, Any, str]]:
    """The settings that somebody set."""
    return [row for row in effective(found.plan.config) if row[2] != "default"]


def _as_json(found: Forecast) -> dict[str, Any]:
    from quire.engine.planning.forecast import HOW_ESTIMATED

    plan, budget = found.plan, found.budget
    return {
        "model": {
            "name": plan.config.model,
            "source": plan.files.source,
            "revision": plan.files.revision,
            "dtype": plan.dtype,
            "device": plan.device,
            "num_parameters": plan.facts.num_parameters,
            "checkpoint_bytes": found.checkpoint_bytes,
            "on_this_machine": found.fetched,
        },
        "draft_model": None
        if plan.draft is None
        else {
            "name": plan.draft.name,
            "source": plan.draft.files.source,
            "num_parameters": plan.draft.facts.num_parameters,
            "weight_bytes": plan.draft.facts.weight_bytes,
        },
        "memory": {
            "total_bytes": found.memory.total,
            "free_bytes": found.memory.free,
            "weight_bytes": found.profile.weights,
            "activation_bytes": found.profile.activations,
            "graph_bytes": found.profile.graphs,
            "kv_bytes_per_token": found.kv_bytes_per_token,
            "kv_bytes": None if budget is None else budget.kv,
            "estimated": HOW_ESTIMATED,
        },
        "fits": found.problem is None,
        "problem": found.problem,
        "max_model_len": plan.max_model_len if budget is None else budget.max_model_len,
        "kv_tokens": None if budget is None else budget.tokens,
        "concurrency": None if budget is None else budget.concurrency,
        "largest_max_model_len": found.largest,
        "plugins": [
            {"role": one.role, "chosen": one.chosen, "reason": one.reason, "rejected": dict(one.rejected)}
            for one in plan.plugins.explanations
        ],
        "settings": {name: {"value": value, "origin": origin} for name, value, origin in _given(found)},
    }


def _print(found: Forecast) -> None:
    from quire.engine.planning.forecast import HOW_ESTIMATED
    from quire.engine.units import size

    plan, budget = found.plan, found.budget
    place = "" if found.fetched else f", {size(found.checkpoint_bytes)} of weights not fetched yet"
    _section(
        "Model",
        [
            ("model", f"{plan.config.model} ({plan.files.source}{place})"),
            ("parameters", f"{plan.facts.num_parameters / 1e6:.1f} M"),
            *_draft(found),
            ("runs in", f"{plan.dtype} on {plan.device}"),
        ],
    )
    _section(
        "Memory",
        [
            ("device", f"{size(found.memory.free)} free of {size(found.memory.total)}"),
            ("weights", size(found.profile.weights)),
            ("activations", f"about {size(found.profile.activations)}"),
            ("graphs", _of_graphs(found)),
            ("KV cache", "nothing left" if budget is None else size(budget.kv)),
            ("KV per token", size(found.kv_bytes_per_token)),
        ],
    )
    click.echo(click.wrap_text(HOW_ESTIMATED, initial_indent="  ", subsequent_indent="  "))
    rows = [("largest max_model_len", str(found.largest or "none fits"))]
    if budget is not None:
        held = f"{budget.concurrency:.1f} sequences of {budget.max_model_len} tokens at a time"
        rows = [("KV cache holds", f"{budget.tokens} tokens: {held}"), *rows]
    _section("Capacity", rows)
    _section("Plugins", [(one.role, f"{one.chosen} ({one.reason})") for one in plan.plugins.explanations])
    given = _given(found)
    if given:
        click.secho("Settings that are not defaults", bold=True)
        for line in setting_lines(given):
            click.echo(f"  {line}")
    if found.problem is not None:
        click.echo(f"error: {found.problem}", err=True)


def _draft(found: Forecast) -> list[tuple[str, str]]:
    draft = found.plan.draft
    if draft is None:
        return []
    return [("draft model", f"{draft.name}, {draft.facts.num_parameters / 1e6:.1f} M parameters")]


def _of_graphs(found: Forecast) -> str:
    from quire.engine.units import size

    if found.profile.graphs:
        return f"about {size(found.profile.graphs)}"
    return "none: enforce_eager" if found.plan.config.enforce_eager else f"none on {found.plan.device}"


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    click.secho(title, bold=True)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        click.echo(f"  {name.ljust(width)}  {text}")
