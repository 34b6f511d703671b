"""A request's stream of outputs, watched on its way to the front end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from quire import RequestOutput
from quire_server.request_record import RequestRecord

if TYPE_CHECKING:
    from quire_server.metrics.metrics import ServerMetrics


class ObservedStream:
    """Passes outputs on unchanged. Not a generator, as closing one that never ran would close nothing.

    A request that is closed before its last output counts as aborted, one whose stream raises as failed.
    """

    __slots__ = (
        "_deltas",
        "_last",
        "_metrics",
        "_output",
        "_over",
        "_prompt_tokens",
        "_record",
        "_started",
        "_stream",
        "_tokens",
    )

    def __init__(
        self,
        metrics: ServerMetrics,
        stream: AsyncIterator[RequestOutput],
        *,
        deltas: bool,
        record: RequestRecord | None,
    ) -> None:
        self._metrics = metrics
        self._stream = stream
        self._deltas = deltas
        self._record = record
        self._started = time.monotonic()
        self._last: float | None = None
        self._output: RequestOutput | None = None
        self._prompt_tokens = 0
        self._tokens = 0
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestOutput:
        """The next output."""
        try:
            output = await anext(self._stream)
        except StopAsyncIteration:
            self._end("abort")
            raise
        except Exception:
            self._end("error")
            raise
        if self._output is None:
            self._prompt_tokens = len(output.prompt_token_ids)
            if self._record is not None:
                self._record.prompt_tokens += self._prompt_tokens
        self._output = output
        if self._deltas or output.finished:
            completions = output.outputs
            if len(completions) == 1:
                new = len(completions[0].token_ids)
            else:
                new = sum(len(one.token_ids) for one in completions)
            if new:
                self._count(new, output)
        if output.finished:
            reasons = [one.finish_reason for one in output.outputs if one.finish_reason is not None]
            self._end(reasons[0] if reasons else "stop")
        return output

    async def aclose(self) -> None:
        """Close the stream, which aborts the request if it still runs."""
        try:
            self._end("abort")
        finally:
            close = getattr(self._stream, "aclose", None)
            if close is not None:
                await close()

    def _count(self, new: int, output: RequestOutput) -> None:
        self._tokens += new
        if self._record is not None:
            self._record.completion_tokens += new
        now = time.monotonic()
        if self._last is None:
            times = output.metrics
            if times is not None and times.first_scheduled_time is None and times.finished_time is None:
                return  # these tokens were put in before the request had its turn
            if times is not None and times.first_token_time is not None:
                self._metrics.first_token(max(times.first_token_time - times.arrival_time, 0.0))
            elif self._deltas:
                self._metrics.first_token(now - self._started)
        else:
            self._metrics.next_token(now - self._last, now)
        self._last = now

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        times = self._output.metrics if self._output is not None else None
        now = time.monotonic()
        self._metrics.finished(
            reason,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._tokens,
            times=(self._started, None, None, now)
            if times is None
            else (
                times.arrival_time,
                times.first_scheduled_time,
                times.first_token_time,
                times.finished_time or now,
            ),
        )
