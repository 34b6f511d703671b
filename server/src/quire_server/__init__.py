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
    """The front ends; each is a dialect of its own."""
    yield RouteSpec(
        name="ops", api=1, target="quire_server.ops.front_end:front_end", summary="Health, metrics."
    )
    yield RouteSpec(
        name="responses",
        api=1,
        target="quire_server.responses.front_end:front_end",
        summary="OpenAI's Responses API: /v1/responses.",
    )
    yield RouteSpec(
        name="anthropic",
        api=1,
        target="quire_server.anthropic.front_end:front_end",
        summary="Anthropic's Messages API: /v1/messages.",
    )
