"""Quire's server: `quire serve` and its routes, registered by hook like any other plugin."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import CommandSpec, hookimpl


@hookimpl
def quire_commands() -> Iterable[CommandSpec]:
    """`quire serve` and what goes with a server."""
    yield CommandSpec(
        name="serve",
        api=1,
        target="quire_server.cli.serve:command",
        options="quire_server.config:ServeConfig",
        summary="Serve a model over HTTP.",
        order=15,
    )
    yield CommandSpec(
        name="serve",
        api=1,
        target="quire_server.cli.bench_serve:command",
        group="bench",
        summary="Load on a server, and its latencies.",
        order=30,
    )
    yield CommandSpec(
        name="run-batch",
        api=1,
        target="quire_server.cli.run_batch:command",
        summary="Work through a file of requests (OpenAI's batch format).",
        order=65,
    )
