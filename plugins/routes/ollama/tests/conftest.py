"""One live server per test module, with an engine that the tests look into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quire_route_ollama.front_end import front_end
from quire_server.config import ServeConfig
from quire_server.testing import Served, serve


@pytest.fixture(scope="module")
def _served() -> Iterator[Served]:
    settings = ServeConfig(max_tokens_cap=400, served_model_name=["fake", "other:7b"])
    with serve(front_end, settings=settings) as served:
        yield served


@pytest.fixture
def served(_served: Served) -> Served:
    """The server, with its engine as new."""
    _served.renew()
    return _served
