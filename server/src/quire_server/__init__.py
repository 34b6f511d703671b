"""Quire's server: `quire serve` and its routes, registered by hook like any other plugin."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import CommandSpec, RouteSpec, hookimpl


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


@hookimpl
def quire_routes() -> Iterable[RouteSpec]:
    """The server's own front ends."""
    yield RouteSpec(
        name="playground",
        api=1,
        target="quire_server.playground.front_end:front_end",
        summary="The page at `/`: a playground and a live view of the engine.",
    )
