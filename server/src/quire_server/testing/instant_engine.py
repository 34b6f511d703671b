"""A fake engine with next to no cost of its own: for measuring the layers above an engine.

Knows nothing of stops, logprobs or several completions: what asks for them is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from quire import CompletionOutput, RequestOutput, SamplingParams
from quire.errors import InvalidRequestError
from quire.outputs import RequestMetrics
from quire_server.testing.fake_engine import FakeEngine

TOKEN, TEXT = 120, "x"


class InstantEngine(FakeEngine):
    """Answers every request with `max_tokens` times the same token; a delta is one token.

    Between two tokens of a stream the event loop gets a turn, as it would while an engine computes.
    """

    async def _run(
        self, request_id: str, text: str | None, ids: list[int], params: SamplingParams, deltas: bool
    ) -> AsyncGenerator[RequestOutput, None]:
        if params.n != 1 or params.stop or params.logprobs is not None or params.prompt_logprobs is not None:
            raise InvalidRequestError("The instant engine knows no n, stop, logprobs or prompt_logprobs.")
        count = params.max_tokens or 16
        times = RequestMetrics(time.monotonic())
        times.first_scheduled_time = times.first_token_time = times.arrival_time

        def output(tokens: int, finished: bool) -> RequestOutput:
            if finished:
                times.finished_time = time.monotonic()
            completion = CompletionOutput(
                index=0,
                text=TEXT * tokens,
                token_ids=[TOKEN] * tokens,
                cumulative_logprob=None,
                finish_reason="length" if finished else None,
            )
            return RequestOutput(
                request_id=request_id,
                prompt=text,
                prompt_token_ids=ids,
                outputs=[completion],
                finished=finished,
                metrics=times,
            )

        self.running += 1
        finished = False
        try:
            if not deltas:
                await asyncio.sleep(0)
                finished = True
                yield output(count, finished=True)
                return
            for i in range(1, count + 1):
                await asyncio.sleep(0)
                finished = i == count
                yield output(1, finished)
        finally:
            self.running -= 1
            self.aborted += not finished
