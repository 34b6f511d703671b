"""`AsyncLLM`: the engine behind asyncio. Streams and aborts; knows prompts, text and token ids.

Where the engine runs is its client's business: a thread of this process, or an engine process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from quire.config import EngineConfig
from quire.engine.async_client import AsyncEngineClient, Health, ThreadedClient
from quire.engine.info import EngineInfo, EngineStats
from quire.engine.inputs import InputProcessor, Prompt, chat_prompt
from quire.engine.outputs import OutputProcessor
from quire.engine.process.remote import RemoteClient
from quire.errors import EngineError, InvalidRequestError, RequestFailedError
from quire.outputs import RequestOutput
from quire.request import CompiledGrammar, StepOutput
from quire.sampling_params import SamplingParams
from quire.scheduler import SchedulerStats
from quire.text.chat import render_chat
from quire.text.tokenizer import Tokenizer, load_tokenizer

_LONG_TEXT = 4096
"""Characters from which on a text is tokenized in a thread: the event loop must not wait for it."""

News = RequestOutput | EngineError


class AsyncLLM:
    """A model, loaded and ready to stream to many callers at once. Belongs to one event loop."""

    def __init__(self, client: AsyncEngineClient, tokenizer: Tokenizer, *, stream: int = 0) -> None:
        """Drive an engine; `start` and `connect` make one. To be called in the event loop.

        Args:
            client: to the engine.
            tokenizer: its model's.
            stream: number of this front end among those of one engine, so that their seeds differ.
        """
        self._client = client
        self._tokenizer = tokenizer
        self._inputs = InputProcessor(client.info, tokenizer, stream)
        self._outputs = OutputProcessor(tokenizer)
        self._listeners: dict[str, asyncio.Queue[News]] = {}
        self._external: dict[str, str] = {}
        client.attach(self._deliver, self._lost)

    @classmethod
    async def start(
        cls,
        model: str | None = None,
        *,
        config: EngineConfig | None = None,
        show_progress: bool = True,
        **settings: Any,
    ) -> Self:
        """Load a model in this process without holding up the event loop. Arguments as for `LLM`."""
        # Here, since a front end of an engine process needs no torch.
        from quire.engine.assembly import start_engine

        if config is None:
            config = EngineConfig(**({} if model is None else {"model": model}), **settings)
        engine = await asyncio.to_thread(start_engine, config, show_progress=show_progress)
        return cls(ThreadedClient(engine.client, engine.info), engine.tokenizer)

    @classmethod
    async def connect(
        cls, endpoint: str, *, stall_timeout: float = 60.0, restarts: bool = False, stream: int = 0
    ) -> Self:
        """Use an engine process (`EngineProcess`), waiting until it has loaded its model.

        Args:
            endpoint: where it listens.
            stall_timeout: seconds without a sign of life after which its health is "stalled".
            restarts: somebody starts it anew when it dies; until then its health is "loading".
            stream: see `__init__`.
        """
        client = RemoteClient(endpoint, stall_timeout=stall_timeout, restarts=restarts)
        try:
            info = await client.connected()
            tokenizer = await asyncio.to_thread(load_tokenizer, info.tokenizer_files)
        except BaseException:
            client.close()
            raise
        return cls(client, tokenizer, stream=stream)

    @property
    def info(self) -> EngineInfo:
        """Facts about the loaded model."""
        return self._client.info

    @property
    def stats(self) -> EngineStats:
        """Figures, at most about a second old; `get_metrics` asks for those of this moment."""
        return self._client.stats

    @property
    def compile_seconds(self) -> float:
        """Time that this front end's compiler has spent on grammars, refused ones too."""
        return self._inputs.compile_stats.seconds

    @property
    def health(self) -> Health:
        """Whether the engine can take work."""
        return self._client.health

    async def submit(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
        deltas: bool = False,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Hand over a prompt; once the engine has taken it, returns the stream of its outputs.

        The stream must be read to its end or closed (`aclose`), which aborts the request.

        Args:
            prompt: text, token ids or a mapping, as for `LLM.generate`.
            sampling_params: None for the model's defaults.
            request_id: a name under which `abort` finds it and which the outputs carry. The engine's own
                key is another, so equal names of different callers cannot mix.
            priority: lower runs earlier under the policy "priority".
            add_special_tokens: whether text gets the tokenizer's BOS.
            deltas: outputs hold what is new since the last one, instead of all so far.

        Raises:
            InvalidRequestError: it can never be served.
            OverloadedError: the engine's queue is full.
            EngineError: the engine has failed or was shut down.
        """
        if deltas and sampling_params is not None and sampling_params.use_beam_search:
            raise InvalidRequestError(
                "use_beam_search cannot be given in deltas: the best beams are known only at the end.",
                field="use_beam_search",
            )
        if deltas and sampling_params is not None and (sampling_params.best_of or 0) > sampling_params.n:
            raise InvalidRequestError(
                f"best_of {sampling_params.best_of} with n {sampling_params.n} cannot be given in deltas: "
                "the best are known only at the end.",
                field="best_of",
            )
        ids = await self._ids_of(prompt, add_special_tokens)
        grammar: CompiledGrammar | None = None
        if (under_way := self._inputs.compile(sampling_params)) is not None:
            compiled: asyncio.Future[CompiledGrammar] = asyncio.wrap_future(under_way)
            grammar = await asyncio.shield(compiled)  # others may wait for the same, and it ends by itself
        prepared = self._inputs.prepare(
            ids, sampling_params, priority=priority, add_special_tokens=False, grammar=grammar
        )
        key = prepared.engine.request_id
        news: asyncio.Queue[News] = asyncio.Queue()
        self._listeners[key] = news
        self._outputs.add(prepared, deltas=deltas)
        if request_id is not None:
            self._external[request_id] = key
        try:
            await self._client.add(prepared.engine)
        except BaseException:
            self._forget(key, request_id)
            self._client.abort(key)
            raise
        stream = self._stream(key, request_id, news)
        # Started here, so that closing it runs its `finally` even if nobody ever asks for an output.
        await stream.asend(None)
        return stream

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
        deltas: bool = False,
    ) -> AsyncIterator[RequestOutput]:
        """Complete a prompt, giving all that was generated so far whenever there is more.

        Leaving the iterator early, or cancelling the task, aborts the request. Arguments and errors as for
        `submit`.

        Raises:
            RequestFailedError: it failed inside the engine.
        """
        stream = await self.submit(
            prompt,
            sampling_params,
            request_id,
            priority=priority,
            add_special_tokens=add_special_tokens,
            deltas=deltas,
        )
        try:
            async for output in stream:
                yield output
        finally:
            await stream.aclose()

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Answer one conversation, as `generate` does."""
        text = await self.render_chat(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        prompt = chat_prompt(text, messages[-1] if continue_final_message else None)
        async for output in self.generate(prompt, sampling_params, request_id, add_special_tokens=False):
            yield output

    async def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation, without holding up the event loop.

        Raises:
            InvalidRequestError: see `quire.text.chat.render_chat`.
        """
        return await asyncio.to_thread(
            render_chat,
            self._tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, as a prompt would be tokenized."""
        if len(text) < _LONG_TEXT:
            return self._tokenizer.encode(text, add_special_tokens)
        return await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens)

    async def detokenize(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        if len(token_ids) < _LONG_TEXT:
            return self._tokenizer.decode(list(token_ids), skip_special_tokens)
        return await asyncio.to_thread(self._tokenizer.decode, list(token_ids), skip_special_tokens)

    async def abort(self, request_id: str) -> None:
        """End a request now; its stream ends with finish reason "abort". Unknown names are ignored."""
        key = self._external.get(request_id)
        if key is not None:
            self._client.abort(key)

    async def reset_prefix_cache(self) -> None:
        """Forget cached prefixes; running requests are not affected."""
        await self._client.reset_prefix_cache()

    async def get_metrics(self) -> SchedulerStats:
        """Counts of requests, blocks, prefix hits and preemptions at this moment."""
        await self._client.refresh()
        return self._client.stats.scheduler

    def get_default_sampling_params(self) -> SamplingParams:
        """What a request gets that names no parameters."""
        return self._inputs.default_params()

    def get_tokenizer(self) -> Any:
        """The transformers tokenizer of the model."""
        return self._tokenizer.hf

    def shutdown(self) -> None:
        """End all requests with an error and let go of the engine; one in this process is freed."""
        self._inputs.close()
        self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.shutdown)

    async def _ids_of(self, prompt: Prompt, add_special_tokens: bool) -> Prompt:
        """The prompt with token ids beside its text, so that nothing else tokenizes it."""
        if isinstance(prompt, str):
            return {"prompt": prompt, "prompt_token_ids": await self.tokenize(prompt, add_special_tokens)}
        if isinstance(prompt, Mapping) and isinstance(prompt.get("prompt"), str):
            ids = prompt.get("prompt_token_ids")
            if ids is None:
                ids = await self.tokenize(prompt["prompt"], add_special_tokens)
            return {**prompt, "prompt_token_ids": ids}
        return prompt

    async def _stream(
        self, key: str, request_id: str | None, news: asyncio.Queue[News]
    ) -> AsyncGenerator[RequestOutput, None]:
        finished = False
        try:
            yield None  # type: ignore[misc]  # the start, taken by `submit`
            while not finished:
                output = await news.get()
                if isinstance(output, EngineError):
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
            self._forget(key, request_id)
            if not finished:
                self._client.abort(key)

    def _forget(self, key: str, request_id: str | None) -> None:
        self._listeners.pop(key, None)
        self._outputs.discard(key)
        if request_id is not None and self._external.get(request_id) == key:
            del self._external[request_id]

    def _deliver(self, steps: Sequence[StepOutput]) -> None:
        processed = self._outputs.process(steps)
        for key, index in processed.aborts:
            self._client.abort(key, index)
        for output in processed.outputs:
            self._listeners[output.request_id].put_nowait(output)

    def _lost(self, error: EngineError) -> None:
        for key, news in self._listeners.items():
            self._outputs.discard(key)
            news.put_nowait(error)
