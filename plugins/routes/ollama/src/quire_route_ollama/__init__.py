"""Ollama's API for Quire's server. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import RouteSpec, hookimpl


@hookimpl
def quire_routes() -> Iterable[RouteSpec]:
    """`ollama`, mounted only where the configuration names it."""
    yield RouteSpec(
        name="ollama",
        api=1,
        target="quire_route_ollama.front_end:front_end",
        summary="Ollama's API: /api/generate, /api/chat, /api/tags, /api/show, /api/version",
    )
