"""The service: limits on requests, and chats that a template fails at."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quire import SamplingParams
from quire.errors import CheckpointError
from quire_server.config import ServeConfig
from quire_server.errors import ApiError
from quire_server.metrics import ServerMetrics
from quire_server.service import Chat, Service, Work
from quire_server.testing import FakeEngine


class Broken(FakeEngine):
    """Its template fails."""

    async def render_chat(self, *args: Any, **options: Any) -> str:
        """Fail as the engine's renderer does."""
        raise CheckpointError("The model's chat template failed: TypeError: <x at 0x7f00deadbeef>.")


def test_messages_that_a_template_fails_at_are_the_clients_fault() -> None:
    service = Service(Broken(), ServeConfig(), ServerMetrics())
    with pytest.raises(ApiError, match=r"template failed: TypeError: <x at \.\.\.>") as caught:
        asyncio.run(service.open_chat(Chat(messages=[{"role": "user", "content": "hi"}])))
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize(
    ("default", "cap", "asked", "found"),
    [
        (None, None, None, None),
        (7, None, None, 7),
        (None, 9, None, 9),
        (7, 9, None, 7),
        (12, 9, None, 9),  # the server's own default is no reason to refuse
        (7, 9, 9, 9),
        (7, None, 40, 40),
    ],
)
def test_a_request_that_names_no_limit_gets_the_servers(
    default: int | None, cap: int | None, asked: int | None, found: int | None
) -> None:
    async def body() -> None:
        engine = FakeEngine()
        settings = ServeConfig(default_max_tokens=default, max_tokens_cap=cap)
        service = Service(engine, settings, ServerMetrics())
        generation = await service.start(Work(prompts=["x"], params=SamplingParams(max_tokens=asked)))
        await generation.aclose()
        assert engine.params[-1].max_tokens == found

    asyncio.run(body())


def test_more_than_the_cap_is_refused() -> None:
    async def body() -> None:
        service = Service(FakeEngine(), ServeConfig(max_tokens_cap=9), ServerMetrics())
        with pytest.raises(ApiError, match="at most 9") as refused:
            await service.start(Work(prompts=["x"], params=SamplingParams(max_tokens=10)))
        assert refused.value.param == "max_tokens"

    asyncio.run(body())
