"""The application with every front end that any installed distribution offers, around a fake engine."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from quire.plugins import discover
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.front_end import FrontEnd
from quire_server.metrics import ServerMetrics
from quire_server.service import Service
from quire_server.testing import FakeEngine


class WholeApp:
    """What a server mounts if all routes there are were named.

    Attributes:
        engine, service, app: see their classes.
    """

    def __init__(
        self, engine: FakeEngine | None = None, metrics: ServerMetrics | None = None, **settings: Any
    ) -> None:
        self.engine = engine or FakeEngine()
        self.service = Service(self.engine, ServeConfig(**settings), metrics or ServerMetrics())
        self.app = build_app(
            self.service, [_load(one.spec, self.service) for one in discover().of_kind("route")]
        )

    def routes(self) -> Iterator[tuple[str, str]]:
        """Method and path, as declared, of everything that the app answers."""
        for route in self.app.routes:
            for method in sorted(getattr(route, "methods", None) or {"GET"}):
                yield method, str(getattr(route, "path", ""))

    @property
    def idle(self) -> bool:
        """Nothing runs and nobody believes that something does."""
        return (self.engine.running, self.service.active) == (0, 0)


def _load(spec: Any, service: Service) -> FrontEnd:
    options = _attribute(spec.options)() if spec.options else None
    front_end: FrontEnd = _attribute(spec.target)(service, options)
    return front_end


def _attribute(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
