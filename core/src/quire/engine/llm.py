"""`LLM`: the Python API for scripts. Synchronous, in process, with the names that vLLM's users know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

from tqdm import tqdm

from quire.beam_search import BeamSearchOutput, BeamSearchSequence
from quire.config import EngineConfig
from quire.engine.assembly import start_engine
from quire.engine.inputs import PreparedRequest, Prompt, chat_prompt
from quire.engine.planning.plan import EnginePlan
from quire.engine.report import StartupReport
from quire.errors import InvalidRequestError, RequestFailedError
from quire.outputs import CompletionOutput, RequestOutput
from quire.sampling_params import BeamSearchParams, SamplingParams
from quire.scheduler import SchedulerStats
from quire.text.chat import render_chat

Messages = Sequence[Mapping[str, Any]]
"""One conversation: mappings with "role" and "content"."""


class LLM:
    """A model, loaded and ready to generate.

    Use it as a context manager, or call `shutdown()`, to free its memory at a known time.

    Attributes:
        startup_report: timings, memory and choices of start-up.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        config: EngineConfig | None = None,
        show_progress: bool = True,
        **settings: Any,
    ) -> None:
        """Load a model.

        Args:
            model: local directory, bundled name ("tiny") or hub id; the first that exists wins.
            config: a whole configuration, instead of `model` and `settings`.
            show_progress: draw progress bars while files are fetched and loaded.
            **settings: fields of `EngineConfig`.

        Raises:
            ConfigError, PluginError, ModelError, CapacityError: what stands in the way.
        """
        if config is None:
            named = {} if model is None else {"model": model}
            config = EngineConfig(**named, **settings)
        elif model is not None or settings:
            raise InvalidRequestError("LLM takes either `config` or `model` with settings, not both.")
        self.config = config
        self._engine = start_engine(config, show_progress=show_progress)

    @property
    def startup_report(self) -> StartupReport:
        """How start-up went."""
        return self._engine.report

    @property
    def plan(self) -> EnginePlan:
        """What was decided before loading: files, plugins, sizes."""
        return self._engine.plan

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        prompt_token_ids: Sequence[Sequence[int]] | Sequence[int] | None = None,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts, all in one continuous batch.

        Args:
            prompts: text, token ids, a mapping such as `{"prompt_token_ids": [...]}`, or a list of these.
            sampling_params: one for all, one per prompt, or None for the model's defaults.
            use_tqdm: draw a progress bar.
            prompt_token_ids: token ids instead of `prompts`.
            priority: one per prompt, lower runs earlier; counts under the policy "priority".

        Returns:
            One output per prompt, in their order. A request that failed alone has finish reason "error"
            and says why in `error`.

        Raises:
            InvalidRequestError: a prompt or parameter can never be served. Then nothing was run.
        """
        several = _several(prompts if prompt_token_ids is None else prompt_token_ids)
        params = _one_each(sampling_params, len(several))
        priorities = list(priority) if priority is not None else [0] * len(several)
        if len(priorities) != len(several):
            raise InvalidRequestError(
                f"{len(several)} prompts, but {len(priorities)} priorities. Give one per prompt.",
                field="priority",
            )
        requests = [
            self._engine.inputs.prepare(prompt, one, priority=rank)
            for prompt, one, rank in zip(several, params, priorities, strict=True)
        ]
        return self._run(requests, use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer conversations through the model's chat template, or through another one.

        Args:
            messages: one conversation, or a list of them.
            sampling_params, use_tqdm: as for `generate`.
            add_generation_prompt: end with the beginning of the assistant's turn.
            continue_final_message: leave the last message open and go on with it.
            tools: tools for the template to show; calls stay in the text, as the model writes them.
            chat_template: a Jinja template to use instead of the model's: its text, not a file's name.
            chat_template_kwargs: further variables for the template.

        Raises:
            InvalidRequestError: the messages are malformed, or there is no chat template, or none that shows
                tools.
        """
        conversations = _conversations(messages)
        params = _one_each(sampling_params, len(conversations))
        requests = [
            self._prepare_chat(
                conversation,
                one,
                add_generation_prompt,
                continue_final_message,
                chat_template_kwargs,
                tools,
                chat_template,
            )
            for conversation, one in zip(conversations, params, strict=True)
        ]
        return self._run(requests, use_tqdm)

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, use_tqdm: bool = False
    ) -> list[BeamSearchOutput]:
        """The most likely continuations of prompts, by beam search, all in one continuous batch.

        `generate` does the same with `SamplingParams(use_beam_search=True)`, and gives what it always gives.

        Args:
            prompts: as for `generate`.
            params: one for all.
            use_tqdm: draw a progress bar.

        Returns:
            One output per prompt, in their order.

        Raises:
            InvalidRequestError: a prompt or parameter can never be served. Then nothing was run.
            RequestFailedError: one of them failed.
        """
        if not isinstance(params, BeamSearchParams):
            raise InvalidRequestError(
                f"params is {type(params).__name__}: beam_search takes BeamSearchParams. "
                "With SamplingParams(use_beam_search=True), call generate.",
                field="params",
            )
        found = []
        for output in self.generate(prompts, params.sampling(), use_tqdm):
            if output.error is not None:
                raise RequestFailedError(
                    f"The beam search failed: {output.error}", request_id=output.request_id
                )
            found.append(BeamSearchOutput([self._beam(output, one, params) for one in output.outputs]))
        return found

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> Iterator[RequestOutput]:
        """Complete one prompt, giving all that was generated so far after each step.

        Leaving the iterator early aborts the request.
        """
        return self._stream(self._engine.inputs.prepare(prompt, sampling_params))

    def stream_chat(
        self,
        messages: Messages,
        sampling_params: SamplingParams | None = None,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Iterator[RequestOutput]:
        """Answer one conversation, as `stream` does."""
        return self._stream(self._prepare_chat(messages, sampling_params, True, False, chat_template_kwargs))

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, as a prompt would be tokenized."""
        return self._engine.tokenizer.encode(text, add_special_tokens)

    def detokenize(self, token_ids: Sequence[int] | RequestOutput, skip_special_tokens: bool = True) -> str:
        """Text of token ids, or of the first completion of a request."""
        ids = token_ids.outputs[0].token_ids if isinstance(token_ids, RequestOutput) else token_ids
        return self._engine.tokenizer.decode(list(ids), skip_special_tokens)

    def get_tokenizer(self) -> Any:
        """The transformers tokenizer of the model."""
        return self._engine.tokenizer.hf

    def get_default_sampling_params(self) -> SamplingParams:
        """What a request gets that names no parameters: the checkpoint's own, a fresh copy."""
        return self._engine.inputs.default_params()

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes. Always succeeds; scripts written for vLLM read the result."""
        self._engine.client.reset_prefix_cache()
        return True

    def get_metrics(self) -> SchedulerStats:
        """Counts of requests, blocks, prefix hits and preemptions."""
        return self._engine.client.stats().scheduler

    def shutdown(self) -> None:
        """Free the model and its memory. Calling it again does nothing."""
        self._engine.inputs.close()
        self._engine.client.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _beam(
        self, output: RequestOutput, one: CompletionOutput, params: BeamSearchParams
    ) -> BeamSearchSequence:
        assert one.logprobs is not None
        assert one.cumulative_logprob is not None
        cut = one.finish_reason == "stop" and not params.include_stop_str_in_output
        tokens = [*output.prompt_token_ids, *(one.token_ids[:-1] if cut else one.token_ids)]
        return BeamSearchSequence(
            tokens=tokens,
            logprobs=one.logprobs,
            cum_logprob=one.cumulative_logprob,
            text=self._engine.tokenizer.decode(tokens, skip_special_tokens=False),
            finish_reason=one.finish_reason,
            stop_reason=one.stop_reason,
        )

    def _prepare_chat(
        self,
        messages: Messages,
        params: SamplingParams | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
        template_kwargs: Mapping[str, Any] | None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
    ) -> PreparedRequest:
        text = render_chat(
            self._engine.tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template=template,
            chat_template_kwargs=template_kwargs,
        )
        prompt = chat_prompt(text, messages[-1] if continue_final_message else None)
        return self._engine.inputs.prepare(prompt, params, add_special_tokens=False)

    def _run(self, requests: Sequence[PreparedRequest], use_tqdm: bool) -> list[RequestOutput]:
        finished: dict[str, RequestOutput] = {}
        submitted: list[str] = []
        try:
            for request in requests:
                self._submit(request)
                submitted.append(request.engine.request_id)
            with tqdm(total=len(requests), desc="Requests", disable=not use_tqdm, dynamic_ncols=True) as bar:
                while len(finished) < len(requests):
                    for output in self._step(only_finished=True):
                        finished[output.request_id] = output
                        bar.update()
        finally:
            # An interrupt or an error in the middle must leave no request behind.
            self._abandon([one for one in submitted if one not in finished])
        return [finished[request.engine.request_id] for request in requests]

    def _stream(self, request: PreparedRequest) -> Iterator[RequestOutput]:
        self._submit(request)
        request_id = request.engine.request_id
        finished = False
        try:
            while not finished:
                for output in self._step():
                    if output.request_id == request_id:
                        finished = output.finished
                        yield output
        finally:
            if not finished:
                self._abandon([request_id])

    def _submit(self, request: PreparedRequest) -> None:
        self._engine.client.add(request.engine)
        self._engine.outputs.add(request)

    def _step(self, *, only_finished: bool = False) -> list[RequestOutput]:
        client = self._engine.client
        processed = self._engine.outputs.process(client.outputs(), only_finished=only_finished)
        for request_id, index in processed.aborts:
            client.abort(request_id, index)
        return processed.outputs

    def _abandon(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self._engine.outputs.discard(request_id)
            self._engine.client.abort(request_id)


def _several(prompts: Prompt | Sequence[Prompt] | None) -> list[Prompt]:
    """One prompt or many, as a list. A list of integers is one prompt."""
    if prompts is None:
        raise InvalidRequestError("generate() needs `prompts` or `prompt_token_ids`.", field="prompts")
    if isinstance(prompts, (str, Mapping)) or (prompts and isinstance(prompts[0], int)):
        return [cast(Prompt, prompts)]
    return cast("list[Prompt]", list(prompts))


def _conversations(messages: Messages | Sequence[Messages]) -> list[Messages]:
    if messages and isinstance(messages[0], Mapping):
        return [cast(Messages, messages)]
    return cast("list[Messages]", list(messages))


def _one_each(
    params: SamplingParams | Sequence[SamplingParams] | None, count: int
) -> list[SamplingParams | None]:
    if params is None or isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise InvalidRequestError(
            f"{count} prompts, but {len(params)} sampling_params. Give one for all, or one per prompt.",
            field="sampling_params",
        )
    return list(params)
