"""A server for the length of a batch: private, on the loopback, with a key of its own."""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from quire import EngineConfig
from quire.plugins import PluginRegistry
from quire_server.config import ServeConfig
from quire_server.routes import choose_routes
from quire_server.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Served:
    """Where a server is.

    Attributes:
        url: its base URL.
        key: what it asks for; None if nothing.
    """

    url: str
    key: str | None


@asynccontextmanager
async def open_server(config: EngineConfig, registry: PluginRegistry) -> AsyncIterator[Served]:
    """Serve a model for nobody else, and stop in the end.

    Args:
        config: of the engine; of a `serve:` section the limits on requests count.
        registry: what is installed.

    Raises:
        QuireError: the server cannot start.
    """
    key = secrets.token_urlsafe(24)
    asked = config.sections.get("serve", ServeConfig())
    assert isinstance(asked, ServeConfig)
    settings = asked.model_copy(
        update={
            "host": "127.0.0.1",
            "port": 0,
            "api_keys": [SecretStr(key)],
            "api_key_file": None,
            "ssl_certfile": None,
            "ssl_keyfile": None,
            "ssl_ca_certs": None,
            "root_path": "",
            "playground": False,
            "access_log": False,
            "drain_timeout": 1.0,
        }
    )
    routes = choose_routes(registry, config, settings)
    supervisor = Supervisor(config, settings, routes, show_progress=sys.stderr.isatty())
    async with supervisor.serving() as (url, _):
        yield Served(url, key)
