"""The service: chats that a template fails at."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quire.errors import CheckpointError
from quire_server.config import ServeConfig
from quire_server.errors import ApiError
from quire_server.metrics import ServerMetrics
from quire_server.service import Service
from quire_server.testing import FakeEngine


class Broken(FakeEngine):
    """Its template fails."""

    async def render_chat(self, *args: Any, **options: Any) -> str:
        """Fail as the engine's renderer does."""
        raise CheckpointError("The model's chat template failed: TypeError: <x at 0x7f00deadbeef>.")


def test_messages_that_a_template_fails_at_are_the_clients_fault() -> None:
    service = Service(Broken(), ServeConfig(), ServerMetrics())
    with pytest.raises(ApiError, match=r"template failed: TypeError: <x at \.\.\.>") as caught:
        asyncio.run(service.render_chat([{"role": "user", "content": "hi"}]))
    assert (caught.value.status, caught.value.param) == (400, "messages")
