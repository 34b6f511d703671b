"""A generation under way: one or several prompts that a client asked for together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from quire import RequestOutput
from quire.errors import EngineError, InvalidRequestError, RequestFailedError
from quire_server.errors import ApiError, failed, from_engine, unavailable

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Usage:
    """Tokens of a generation.

    Attributes:
        prompt_tokens: over all prompts, each counted once however many completions it has.
        completion_tokens: over all completions that were returned.
        cached_tokens: prompt tokens found in the prefix cache.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


class Generation:
    """Requests that the engine has accepted. Iterate over it once, or `collect` it.

    Each item is `(index of the prompt, RequestOutput)`. With deltas an output holds what is new since the
    last one of its prompt; without, the whole, once it is finished. Closing it, by leaving the `async with`
    block or by cancelling whoever iterates, aborts what still runs.

    Attributes:
        created: Unix time in seconds.
        usage: counts so far; complete once the iteration has ended.
    """

    def __init__(
        self,
        streams: Sequence[AsyncIterator[RequestOutput]],
        *,
        deltas: bool,
        timeout: float | None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over accepted streams.

        Args:
            streams: one per prompt.
            deltas: their outputs are deltas.
            timeout: seconds that all of it may take, or None.
            ended: called once, when nothing runs any more.
        """
        self.created = int(time.time())
        self.usage = Usage()
        self._streams = streams
        self._deltas = deltas
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._prompt_seen = [False] * len(streams)
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = ended
        self._closed = False

    async def __aiter__(self) -> AsyncGenerator[tuple[int, RequestOutput], None]:
        """News of all prompts as they come.

        Raises:
            ApiError: a request failed, for whatever reason; the deadline passed; or the engine died.
        """
        try:
            async with asyncio.timeout_at(self._loop_deadline()):
                async for index, output in self._merged():
                    self._count(index, output)
                    yield index, output
        except TimeoutError:
            raise ApiError(
                504,
                f"The request was ended after {self._timeout:g} s, the server's request_timeout.",
                kind="timeout_error",
                code="request_timeout",
            ) from None
        except InvalidRequestError as error:
            raise from_engine(error) from error
        except RequestFailedError as error:
            raise failed(str(error)) from error
        except EngineError as error:
            raise unavailable(str(error), "engine_unavailable") from error
        except Exception as error:
            logger.exception("A generation failed")
            raise failed("The server failed at this request; its log has the reason.") from error
        finally:
            await self.aclose()

    async def collect(self) -> list[RequestOutput]:
        """Every prompt's whole output, in the order of the prompts. Needs a generation without deltas."""
        assert not self._deltas
        found = {index: output async for index, output in self if output.finished}
        return [found[index] for index in range(len(self._streams))]

    async def aclose(self) -> None:
        """Abort what still runs."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await _close_all(self._streams)
        finally:
            self._ended()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _loop_deadline(self) -> float | None:
        if self._deadline is None:
            return None
        return asyncio.get_running_loop().time() + self._deadline - time.monotonic()

    async def _merged(self) -> AsyncIterator[tuple[int, RequestOutput]]:
        if len(self._streams) == 1:
            async for output in self._streams[0]:
                yield 0, output
            return
        news: asyncio.Queue[tuple[int, RequestOutput] | Exception | None] = asyncio.Queue()

        async def forward(index: int, stream: AsyncIterator[RequestOutput]) -> None:
            try:
                async for output in stream:
                    news.put_nowait((index, output))
                news.put_nowait(None)
            except Exception as error:
                news.put_nowait(error)

        self._tasks = [
            asyncio.create_task(forward(index, stream)) for index, stream in enumerate(self._streams)
        ]
        running = len(self._streams)
        while running:
            item = await news.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield item

    def _count(self, index: int, output: RequestOutput) -> None:
        if not self._prompt_seen[index]:
            self._prompt_seen[index] = True
            self.usage.prompt_tokens += len(output.prompt_token_ids)
            self.usage.cached_tokens += output.num_cached_tokens
        if self._deltas or output.finished:
            self.usage.completion_tokens += sum(len(one.token_ids) for one in output.outputs)


async def _close_all(streams: Sequence[Any]) -> None:
    """Close every stream, whatever closing another one raises."""
    failure: Exception | None = None
    for stream in streams:
        close = getattr(stream, "aclose", None)
        try:
            if close is not None:
                await close()
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure
