"""`AsyncLLM`: the engine behind asyncio. Streams and aborts; the engine runs in a thread of its own.

The thread alone touches the engine client. Callers reach it through a queue of commands, and
get their news through the event loop; nothing spins while nothing is under way.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from quire.config import EngineConfig
from quire.engine.assembly import Engine, start_engine
from quire.engine.inputs import PreparedRequest, Prompt
from quire.engine.report import StartupReport
from quire.errors import EngineError, RequestFailedError
from quire.outputs import RequestOutput
from quire.sampling import SamplingParams
from quire.scheduler import SchedulerStats
from quire.text.chat import render_chat

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class _Listener:
    """Where a request's news goes."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[RequestOutput | Exception]

    def put(self, item: RequestOutput | Exception) -> None:
        """Hand over news from the engine's thread."""
        try:
            self.loop.call_soon_threadsafe(self.queue.put_nowait, item)
        except RuntimeError:
            logger.debug("A caller's event loop has closed; its news is not wanted any more")


class AsyncLLM:
    """A model, loaded and ready to stream to many callers at once."""

    def __init__(self, engine: Engine) -> None:
        """Drive a started engine; `AsyncLLM.start` makes one."""
        self._engine = engine
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._listeners: dict[str, _Listener] = {}
        self._external: dict[str, str] = {}
        self._error: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._drive, name="quire-engine", daemon=True)
        self._thread.start()

    @classmethod
    async def start(
        cls,
        model: str | None = None,
        *,
        config: EngineConfig | None = None,
        show_progress: bool = True,
        **settings: Any,
    ) -> Self:
        """Load a model without holding up the event loop. Arguments as for `LLM`."""
        if config is None:
            config = EngineConfig(**({} if model is None else {"model": model}), **settings)
        return cls(await asyncio.to_thread(start_engine, config, show_progress=show_progress))

    @property
    def startup_report(self) -> StartupReport:
        """How start-up went."""
        return self._engine.report

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
    ) -> AsyncIterator[RequestOutput]:
        """Complete a prompt, giving all that was generated so far whenever there is more.

        Leaving the iterator early, or cancelling the task, aborts the request.

        Args:
            prompt: text, token ids or a mapping, as for `LLM.generate`.
            sampling_params: None for the model's defaults.
            request_id: a name under which `abort` finds it and which the outputs carry. The engine's own
                key is another, so equal names of different callers cannot mix.
            priority: lower runs earlier under the policy "priority".
            add_special_tokens: whether text gets the tokenizer's BOS.

        Raises:
            InvalidRequestError: it can never be served.
            RequestFailedError: it failed inside the engine.
            EngineError: the engine has failed or was shut down.
        """
        prepared = self._engine.inputs.prepare(
            prompt, sampling_params, priority=priority, add_special_tokens=add_special_tokens
        )
        key = prepared.engine.request_id
        news: asyncio.Queue[RequestOutput | Exception] = asyncio.Queue()
        self._listeners[key] = _Listener(asyncio.get_running_loop(), news)
        if request_id is not None:
            self._external[request_id] = key
        finished = False
        try:
            await self._call(lambda: self._add(prepared))
            while not finished:
                output = await news.get()
                if isinstance(output, Exception):
                    finished = True
                    raise output
                finished = output.finished
                if output.error is not None:
                    raise RequestFailedError(
                        f"The request failed: {output.error}", request_id=request_id or key
                    )
                if request_id is not None:
                    output.request_id = request_id
                yield output
        finally:
            self._listeners.pop(key, None)
            if request_id is not None and self._external.get(request_id) == key:
                del self._external[request_id]
            if not finished and not self._closed:
                self._commands.put(lambda: self._abandon(key))

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Answer one conversation, as `generate` does."""
        text = render_chat(
            self._engine.tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **(chat_template_kwargs or {}),
        )
        async for output in self.generate(text, sampling_params, request_id, add_special_tokens=False):
            yield output

    async def abort(self, request_id: str) -> None:
        """End a request now; its stream ends with finish reason "abort". Unknown names are ignored."""
        key = self._external.get(request_id)
        if key is not None:
            await self._call(lambda: self._dispatch(self._engine.client.abort(key)))

    async def reset_prefix_cache(self) -> None:
        """Forget cached prefixes; running requests are not affected."""
        await self._call(self._engine.client.reset_prefix_cache)

    async def get_metrics(self) -> SchedulerStats:
        """Counts of requests, blocks, prefix hits and preemptions."""
        return await self._call(self._engine.client.stats)

    def get_default_sampling_params(self) -> SamplingParams:
        """What a request gets that names no parameters."""
        return self._engine.inputs.default_params()

    def get_tokenizer(self) -> Any:
        """The transformers tokenizer of the model."""
        return self._engine.tokenizer.hf

    def shutdown(self) -> None:
        """End all requests with an error, stop the thread and free the model's memory."""
        if not self._closed:
            self._closed = True
            self._commands.put(None)
        self._thread.join()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.shutdown)

    async def _call(self, work: Callable[[], T]) -> T:
        """Run something in the engine's thread and wait for it without holding up the loop."""
        if self._error is not None:
            raise EngineError(f"The engine has failed: {self._error}") from self._error
        if self._closed:
            raise EngineError("This engine was shut down. Start a new one to go on.")
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

        self._commands.put(run)
        return await asyncio.wrap_future(future)

    # What follows runs in the engine's thread.

    def _drive(self) -> None:
        client = self._engine.client
        try:
            while self._obey(block=not client.has_unfinished()):
                if client.has_unfinished():
                    self._dispatch(client.outputs())
        except Exception as error:
            logger.exception("The engine has failed")
            self._error = error
        self._end(
            EngineError(
                f"The engine has failed: {self._error}" if self._error else "The engine was shut down."
            )
        )
        client.shutdown()

    def _obey(self, *, block: bool) -> bool:
        """Run the commands that have come; wait for one if there is nothing else to do. False: stop."""
        while True:
            try:
                command = self._commands.get(block=block)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            block = False

    def _add(self, prepared: PreparedRequest) -> None:
        self._engine.client.add(prepared.engine)
        self._engine.outputs.add(prepared)

    def _abandon(self, key: str) -> None:
        self._engine.outputs.discard(key)
        self._engine.client.abort(key)

    def _dispatch(self, steps: Sequence[Any]) -> None:
        processed = self._engine.outputs.process(steps)
        for key, index in processed.aborts:
            self._engine.client.abort(key, index)
        for output in processed.outputs:
            listener = self._listeners.get(output.request_id)
            if listener is not None:
                listener.put(output)

    def _end(self, error: EngineError) -> None:
        """Tell everyone who still waits, commands included, that nothing more will come."""
        for listener in list(self._listeners.values()):
            listener.put(error)
        self._closed = True
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            if command is not None:
                command()
