"""`quire run-batch`: a file of requests in, a file of results out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Never

import click
import httpx
import uvloop
from tqdm import tqdm

from quire.cli.options import (
    SettingsCommand,
    configuration,
    current_registry,
    engine_flags_given,
    engine_options,
)
from quire_server.batch import BatchSettings, Counts, run_batch
from quire_server.batch.server import Served, open_server
from quire_server.bench import Address

__all__ = ["command"]

_CONNECT_SECONDS = 30.0
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("run-batch", cls=SettingsCommand)
@click.option("-i", "--input", "source", type=_FILE, required=True, help="Requests, a JSON object a line.")
@click.option("-o", "--output", "target", type=_FILE, required=True, help="Results; continued if it exists.")
@click.option("--url", metavar="URL", help="Base URL of a running server.")
@click.option("--model", metavar="NAME", help="Serve this model for the length of the batch instead.")
@click.option("--api-key", envvar="OPENAI_API_KEY", show_envvar=True, help="Key to show the server.")
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=32, show_default=True, help="Requests in flight."
)
@click.option(
    "--max-retries",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Further attempts while the server is busy (429, 503) or not there.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="Seconds per attempt.",
)
@engine_options
def command(
    source: Path,
    target: Path,
    url: str | None,
    model: str | None,
    api_key: str | None,
    concurrency: int,
    max_retries: int,
    timeout: float,
) -> None:
    """Work through a file of requests in OpenAI's batch format.

    A run that was stopped goes on where it left off when it is started again with the same files. The exit
    code is 1 if any line failed, now or then.
    """
    if (url is None) == (model is None):
        raise click.UsageError("Give either --url or --model.")
    if model is None and engine_flags_given():
        raise click.UsageError("Flags of the engine go with --model.")
    settings = BatchSettings(concurrency=concurrency, max_retries=max_retries)

    async def run() -> Counts:
        served = (
            nullcontext(Served(Address.parse(url or "").url, api_key))
            if model is None
            else open_server(configuration(model), current_registry())
        )
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        patience = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
        async with served as server:
            headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
            client = httpx.AsyncClient(
                base_url=server.url,
                headers=headers,
                timeout=patience,
                limits=limits,
                trust_env=model is None,  # no proxy stands before a server of our own
            )
            async with client:
                with tqdm(unit="line", disable=None, leave=False) as bar:
                    return await run_batch(
                        source, target, client, settings, lambda counts: _show(bar, counts)
                    )

    counts = uvloop.run(run())
    earlier = f" ({counts.earlier} of them by an earlier run)" if counts.earlier else ""
    click.echo(f"{counts.done} of {counts.total} lines done{earlier}, {counts.failed} failed: {target}")
    if counts.failed:
        raise click.exceptions.Exit(1)


def _show(bar: tqdm[Never], counts: Counts) -> None:
    bar.total = counts.total
    bar.n = counts.done
    bar.set_postfix(failed=counts.failed, refresh=False)
    bar.update(0)
