"""The route contract: HTTP routes that a front-end plugin adds to the server.

Installing a route plugin activates nothing: the server mounts those that the configuration names.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.contracts.base import PluginSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec(PluginSpec):
    """Description of a set of HTTP routes.

    `target` is a callable `(service, options) -> FrontEnd`: it takes the server's service, which every
    front end translates into (`quire_server.service.Service`), and the validated options (None without an
    options model), and returns its routes and the form its errors take (`quire_server.front_end.FrontEnd`).
    It is imported and called in each process that speaks HTTP, once.
    """
