"""`quire serve`: a model over HTTP, from one command or one configuration file."""

from __future__ import annotations

import asyncio
import sys

import click

from quire import EngineInfo
from quire.cli.options import (
    SettingsCommand,
    configuration,
    current_registry,
    engine_options,
    section_options,
)
from quire.errors import ConfigError
from quire_server.config import ServeConfig

_EVERYDAY = (
    "host",
    "port",
    "served_model_name",
    "api_keys",
    "api_key_file",
    "api_workers",
    "max_queue",
    "drain_timeout",
    "on_engine_death",
    "playground",
    "log_format",
)


@click.command("serve", cls=SettingsCommand)
@click.argument("model", required=False)
@section_options("serve", ServeConfig, title="Server options", everyday=_EVERYDAY)
@engine_options
def command(model: str | None) -> int:
    """Serve MODEL over HTTP, through OpenAI's and Anthropic's APIs.

    MODEL is a local directory, a bundled name ("tiny") or a name on the Hugging Face hub; it may stand
    in the configuration file instead.
    """
    from quire_server.http.logging import configure_logging
    from quire_server.routes import choose_routes
    from quire_server.supervisor import Supervisor

    config = configuration(model)
    if not config.model:
        raise ConfigError("model: name one, as an argument or in the configuration")
    settings = config.sections["serve"]
    assert isinstance(settings, ServeConfig)
    configure_logging(settings)
    routes = choose_routes(current_registry(), config, settings)

    async def run() -> int:
        supervisor = Supervisor(
            config,
            settings,
            routes,
            show_progress=sys.stderr.isatty(),
            on_ready=lambda url, info: show_start(url, info, settings),
        )
        return await supervisor.run()

    return asyncio.run(run())


def show_start(url: str, info: EngineInfo, settings: ServeConfig) -> None:
    """The start-up card: what one wants to know of a server that has just come up."""
    name = (settings.served_model_name or [info.model])[0]
    tokens = info.num_blocks * info.block_size
    rows = {
        "serving": f"{url}" + (f"  (playground: {url}/)" if settings.playground else ""),
        "model": f"{name}: {info.architecture}, {info.num_parameters / 1e6:.1f} M parameters, "
        f"{info.dtype} on {info.device}",
        "context": f"{info.max_model_len} tokens; up to {info.max_num_seqs} sequences at a time",
        "KV cache": f"{tokens} tokens: {tokens / info.max_model_len:.1f} sequences of full length",
        "try": f"curl {url}/v1/completions -H 'Content-Type: application/json' "
        + ('-H "Authorization: Bearer $KEY" ' if settings.api_keys or settings.api_key_file else "")
        + f"""-d '{{"model": "{name}", "prompt": "def ", "max_tokens": 16}}'""",
    }
    for key, text in rows.items():
        if key == "try":  # who proposes tokens ahead, if anybody: a line of the engine's own report
            for line in info.report:
                if line.startswith("drafts "):
                    click.echo(line, err=True)
        click.echo(f"{key:<9} {text}", err=True)
