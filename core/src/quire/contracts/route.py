"""The route contract: HTTP routes that a front-end plugin adds to the server.

Installing a route plugin activates nothing: the server mounts those that the configuration names.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.contracts.base import PluginSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec(PluginSpec):
    """Description of a set of HTTP routes.

    `target` is a callable that takes the engine client and the validated options, and
    returns an ASGI application or router that the server mounts at `prefix`.

    Attributes:
        prefix: path prefix, "" for the root.
    """

    prefix: str = ""
