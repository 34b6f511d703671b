"""Quire's server: `quire serve` and its routes, registered by hook like any other plugin."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import CommandSpec, RouteSpec, hookimpl


@hookimpl
def quire_commands() -> Iterable[CommandSpec]:
    """`quire serve`, and what measures and feeds servers."""
    yield CommandSpec(
        name="serve",
        api=1,
        target="quire_server.cli.serve:command",
        options="quire_server.config:ServeConfig",
        summary="Serve a model over HTTP.",
        order=15,
    )
    yield CommandSpec(
        name="run-batch",
        api=1,
        target="quire_server.cli.run_batch:command",
        summary="Answer a file of requests (OpenAI's batch format).",
        order=70,
    )
    yield CommandSpec(
        name="serve",
        api=1,
        target="quire_server.cli.bench_serve:command",
        group="bench",
        summary="Load on a running server: latencies, throughput, goodput.",
        order=30,
    )


@hookimpl
def quire_routes() -> Iterable[RouteSpec]:
    """The server's own front ends, in the order in which they are mounted."""
    for name, package, summary in (
        ("ops", "ops", "Health, readiness, metrics, version, and the engine's live view."),
        ("openai", "openai", "OpenAI's completions, chat completions and models; tokenize, detokenize."),
        ("responses", "responses", "OpenAI's responses."),
        ("anthropic", "anthropic", "Anthropic's messages."),
        ("playground", "playground", "The page at `/`: a playground and a live view of the engine."),
    ):
        yield RouteSpec(
            name=name, api=1, target=f"quire_server.{package}.front_end:front_end", summary=summary
        )
