"""`ServerMetrics`: what is counted about requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from quire import RequestOutput, SamplingParams


class ServerMetrics:
    """Counts requests as they go by."""

    async def observe(
        self, stream: AsyncIterator[RequestOutput], params: SamplingParams
    ) -> AsyncGenerator[RequestOutput, None]:
        """Pass a request's outputs on and count them; closing it closes the stream."""
        async for output in stream:
            yield output

    def rejected(self, reason: str) -> None:
        """A request was turned away before the engine saw it."""
