"""Which front ends a server mounts: its own, and those that the configuration names."""

from __future__ import annotations

from quire import EngineConfig
from quire.contracts import Need
from quire.errors import ConfigError
from quire.plugin_plan import PlanBuilder, PlannedPlugin
from quire.plugins import OK, PluginRegistry
from quire_server.config import ServeConfig

DISTRIBUTION = "quire-server"


def choose_routes(
    registry: PluginRegistry, config: EngineConfig, settings: ServeConfig
) -> list[PlannedPlugin]:
    """The front ends to mount: the server's own in their order, then those of `plugins.routes`.

    Raises:
        PluginError: a named one is not installed, or cannot be imported.
        ConfigError: a named one is mounted anyway, or its options are wrong.
    """
    own = [
        found.spec.name
        for found in registry.of_kind("route")
        if found.distribution == DISTRIBUTION and found.status == OK
    ]
    if not settings.playground:
        own.remove("playground")
    for name in config.plugins.routes:
        if name in own:
            raise ConfigError(
                f"plugins.routes: {name!r} is part of the server and mounted anyway; leave it out."
            )
    builder = PlanBuilder(registry, config.plugins.options)
    names = [f"{DISTRIBUTION}:{name}" for name in own] + list(config.plugins.routes)
    for name in names:
        builder.choose("route", Need(device="any", dtype="any"), requested=name, role=f"route/{name}")
    plan = builder.build()
    return [plan[f"route/{name}"] for name in names]
