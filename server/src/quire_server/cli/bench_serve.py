"""`quire bench serve`: load on a server that speaks OpenAI's API, and the latencies it answers with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from tqdm import tqdm

from quire_server.bench import Address, Lengths, LoadSettings, Run, run_load, summarise
from quire_server.bench import plot as plots
from quire_server.bench.client import PATHS
from quire_server.bench.figures import parse_slo
from quire_server.bench.report import print_table, to_json

__all__ = ["command"]

_OPEN_LOOP_LIMIT = 1024
_CLOSED_LOOP = 8
_NUM_REQUESTS = 100


class _LengthsType(click.ParamType[Lengths]):
    name = "N or LOW:HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Lengths:
        try:
            return value if isinstance(value, Lengths) else Lengths.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_LENGTHS = _LengthsType()
_AT_LEAST_1 = click.IntRange(min=1)
_AT_LEAST_0 = click.IntRange(min=0)
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command("serve")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The server's base URL.")
@click.option(
    "--model", default="", metavar="NAME", help="Served name; the first that is listed if left out."
)
@click.option("--api-key", envvar="OPENAI_API_KEY", show_envvar=True, help="Key to show the server.")
@click.option(
    "--endpoint", type=click.Choice(list(PATHS)), default="completions", show_default=True, help="API to use."
)
@click.option("--request-rate", type=_POSITIVE, help="Requests per second of a Poisson process (open loop).")
@click.option(
    "--concurrency",
    type=_AT_LEAST_1,
    help=f"Requests in flight: as many as this, always ({_CLOSED_LOOP} unless given), or, with "
    f"--request-rate, never more than this ({_OPEN_LOOP_LIMIT}).",
)
@click.option(
    "--num-requests",
    type=_AT_LEAST_1,
    help=f"Requests to send; {_NUM_REQUESTS} unless it or --duration is given.",
)
@click.option("--duration", type=_POSITIVE, help="Seconds in which requests begin; those that have, end.")
@click.option("--input-len", type=_LENGTHS, default="128", show_default=True, help="Prompt tokens.")
@click.option("--output-len", type=_LENGTHS, default="64", show_default=True, help="Output tokens.")
@click.option(
    "--prefix-length",
    type=_AT_LEAST_0,
    default=0,
    show_default=True,
    help="Tokens of a prefix that is shared.",
)
@click.option(
    "--num-prefixes", type=_AT_LEAST_1, default=1, show_default=True, help="Different shared prefixes."
)
@click.option(
    "--text", is_flag=True, help="Send words instead of token ids; lengths are words then. Chats always do."
)
@click.option(
    "--token-ids",
    type=_LENGTHS,
    default="32:255",
    show_default=True,
    help="Ids that prompts are drawn from; widen it to the model's vocabulary for realistic embeddings.",
)
@click.option(
    "--ignore-eos/--no-ignore-eos",
    default=True,
    show_default=True,
    help="Ask for exactly --output-len tokens. Servers that refuse unknown fields need --no-ignore-eos.",
)
@click.option("--return-token-ids", is_flag=True, help="Have ids sent with each chunk (vLLM's field).")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True)
@click.option("--warmup", type=_AT_LEAST_0, default=1, show_default=True, help="Requests before, unmeasured.")
@click.option("--timeout", type=_POSITIVE, default=600.0, show_default=True, help="Seconds per request.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of prompts, lengths and arrivals.")
@click.option(
    "--slo",
    metavar="LIMITS",
    help="Limits that goodput counts by, e.g. ttft=200ms,itl=50ms,tpot=40ms,e2e=5s.",
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write everything here."
)
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw distributions here, .svg or .png."
)
def command(
    url: str, api_key: str | None, slo: str | None, json_file: Path | None, plot: Path | None, **values: Any
) -> None:
    """Measure a server under load.

    TTFT, TPOT, ITL and E2E are of requests that completed; latencies count from when a request was due.
    The exit code is 1 if any request failed.
    """
    address = Address.parse(url)
    limits = {} if slo is None else parse_slo(slo)
    if plot is not None:
        plots.check(plot)
    for file in (json_file, plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise click.UsageError(f"There is no folder {file.absolute().parent} to write {file.name} to.")
    run = uvloop.run(_run(address, _settings(values), api_key))
    summary = summarise(run.samples, run.seconds, limits=limits, exact=run.settings.ignore_eos)
    print_table(summary, Console())
    if json_file is not None:
        json_file.write_text(json.dumps(to_json(run, summary, limits), indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        plots.write(plot, run, summary)
    if summary.failures:
        details = {one.failure: one.detail for one in run.samples if one.failure is not None}
        for reason, detail in details.items():
            click.echo(f"error: {reason}: {detail}", err=True)
        raise click.exceptions.Exit(1)


def _settings(values: dict[str, Any]) -> LoadSettings:
    if values["concurrency"] is None:
        values["concurrency"] = _CLOSED_LOOP if values["request_rate"] is None else _OPEN_LOOP_LIMIT
    if values["num_requests"] is None and values["duration"] is None:
        values["num_requests"] = _NUM_REQUESTS
    return LoadSettings(**values)


async def _run(address: Address, settings: LoadSettings, api_key: str | None) -> Run:
    # disable=None: no bar where stderr is not a terminal
    with tqdm(total=settings.num_requests, unit="req", disable=None, leave=False) as bar:
        return await run_load(address, settings, api_key=api_key, on_done=lambda _: bar.update())
