"""One live server per test module, with an engine that the tests look into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quire_server.anthropic.front_end import front_end as anthropic
from quire_server.config import ServeConfig
from quire_server.responses.front_end import front_end as responses
from quire_server.testing import Served, serve


@pytest.fixture(scope="module")
def _served() -> Iterator[Served]:
    with serve(responses, anthropic, settings=ServeConfig(max_tokens_cap=400)) as served:
        yield served


@pytest.fixture
def served(_served: Served) -> Served:
    """The server, with its engine as new."""
    _served.renew()
    return _served
