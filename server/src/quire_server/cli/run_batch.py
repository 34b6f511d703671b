"""`quire run-batch`: a file of requests in, a file of results out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Never

import click
import httpx
import uvloop
from tqdm import tqdm

from quire.config import EngineConfig
from quire_server.batch import BatchSettings, Counts, run_batch
from quire_server.batch.server import open_server
from quire_server.bench import Address
from quire_server.config import ServeConfig

__all__ = ["command"]

_CONNECT_SECONDS = 30.0
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("run-batch")
@click.option("-i", "--input", "source", type=_FILE, required=True, help="Requests, a JSON object a line.")
@click.option("-o", "--output", "target", type=_FILE, required=True, help="Results; continued if it exists.")
@click.option("--url", metavar="URL", help="Base URL of a running server.")
@click.option("--model", metavar="NAME", help="Serve this model for the length of the batch instead.")
@click.option("--config", type=_FILE, metavar="FILE", help="Configuration of the engine, with --model.")
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
def command(
    source: Path,
    target: Path,
    url: str | None,
    model: str | None,
    config: Path | None,
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
    if config is not None and model is None:
        raise click.UsageError("--config goes with --model.")
    engine = (
        None if model is None else EngineConfig.load(config, sections={"serve": ServeConfig}, model=model)
    )
    settings = BatchSettings(concurrency=concurrency, max_retries=max_retries)

    async def run() -> Counts:
        served = nullcontext(Address.parse(url or "").url) if engine is None else open_server(engine)
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        patience = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS))
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        async with served as base:
            client = httpx.AsyncClient(base_url=base, headers=headers, timeout=patience, limits=limits)
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
