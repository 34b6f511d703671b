"""An engine that answers at once, from rules a test can predict. Fulfils `quire_server.service.Engine`.

Token ids are bytes of UTF-8 text plus three special ones; the model's answer is its prompt's text, from the
beginning, over and over, a byte a step. Nothing is random.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quire import (
    CompletionOutput,
    EngineInfo,
    EngineStats,
    Logprob,
    RequestOutput,
    SamplingParams,
    SchedulerStats,
)
from quire.contracts import ModelFiles, TemplateNeed
from quire.errors import EngineError, InvalidRequestError, RequestFailedError
from quire.outputs import FinishReason, RequestMetrics
from quire.plugin_plan import PlanBuilder
from quire.plugins import discover
from quire.text.chat import RESERVED_VARIABLES
from quire_server.service import Health

BOS, EOS = 256, 257
VOCAB_SIZE, MAX_MODEL_LEN = 258, 512


class FakeTokenizer:
    """Bytes; what front ends ask of a transformers tokenizer."""

    bos_token = "<bos>"
    eos_token = "<eos>"
    chat_template = None

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Names of ids."""
        return [_text([one]) for one in ids]


def _text(ids: Sequence[int]) -> str:
    return bytes(one for one in ids if one < 256).decode(errors="replace")


class FakeEngine:
    """See the module.

    Attributes:
        health, stats, compile_seconds: set them as the test needs.
        delay: seconds before each token.
        refuse: raised by the next `submit`s while not None.
        fail_after: tokens after which every request fails; None for never.
        failure: what it fails with; None for a `RequestFailedError`.
        hold_after: tokens after which every request waits for ever; None for never.
        holding: requests that do.
        prompts, params: what was submitted, in order.
        answer: played in place of the prompt's text, to its end, or what makes it of that text; None for the
            prompt itself.
        chats: what was rendered, in order: the messages and the template's other variables.
        served: prompt and completion tokens of each request that has finished.
        aborted: requests that were closed before they had finished.
    """

    def __init__(self, delay: float = 0.0, **parsers: str) -> None:
        """Parsers as `use_parsers` takes them."""
        self.health: Health = "ready"
        self.stats = EngineStats(
            scheduler=SchedulerStats(
                num_running=0, num_waiting=0, num_preemptions=0, kv=(), prefix_queries=0, prefix_hits=0
            )
        )
        self.compile_seconds = 0.0
        self.info = make_info()
        if parsers:
            self.use_parsers(**parsers)
        self.delay = delay
        self.refuse: Exception | None = None
        self.fail_after: int | None = None
        self.failure: Exception | None = None
        self.hold_after: int | None = None
        self.holding = 0
        self.served: list[tuple[int, int]] = []
        self.prompts: list[Any] = []
        self.answer: str | Callable[[str], str] | None = None
        self.chats: list[dict[str, Any]] = []
        self.params: list[SamplingParams] = []
        self.aborted = 0
        self.running = 0

    def use_parsers(self, **names: str) -> None:
        """Have answers read by installed parsers, by kind: `tool_parser="hermes"`."""
        builder = PlanBuilder(discover(), {})
        need = TemplateNeed(device="cpu", dtype="float32", template=None)
        for kind, name in names.items():
            builder.choose(kind, need, requested=name)
        self.info = replace(self.info, plugins=builder.build())

    def get_default_sampling_params(self) -> SamplingParams:
        """The defaults."""
        return SamplingParams(**self.info.sampling_defaults)

    def get_tokenizer(self) -> Any:
        """Bytes."""
        return FakeTokenizer()

    async def submit(
        self,
        prompt: Any,
        sampling_params: SamplingParams | None = None,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
        deltas: bool = False,
    ) -> AsyncIterator[RequestOutput]:
        """Accept or refuse."""
        if self.refuse is not None:
            raise self.refuse
        params = sampling_params or self.get_default_sampling_params()
        self.prompts.append(prompt)
        self.params.append(params)
        inner = (
            prompt.get("prompt", prompt.get("prompt_token_ids")) if isinstance(prompt, Mapping) else prompt
        )
        ids = await self.tokenize(inner, add_special_tokens) if isinstance(inner, str) else list(inner)
        if not ids:
            raise InvalidRequestError("The prompt is empty: it needs at least one token.", field="prompt")
        if len(ids) >= MAX_MODEL_LEN:
            raise InvalidRequestError(
                f"The prompt has {len(ids)} tokens, and this model's maximum context length is "
                f"{MAX_MODEL_LEN} tokens, prompt and output together.",
                field="prompt",
            )
        if not all(0 <= one < VOCAB_SIZE for one in ids):
            raise InvalidRequestError("A token id of the prompt is out of range.", field="prompt_token_ids")
        params.check_vocabulary(VOCAB_SIZE)
        return self._run(
            str(len(self.prompts)), inner if isinstance(inner, str) else None, ids, params, deltas
        )

    async def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Bytes, BOS first."""
        return [BOS] * add_special_tokens + list(text.encode())

    async def detokenize(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of bytes."""
        return _text(token_ids)

    async def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """`role: content` a line. Tools are noted in `chats` and not shown."""
        self.chats.append({"messages": list(messages), "tools": tools, **(chat_template_kwargs or {})})
        for name in sorted(RESERVED_VARIABLES.intersection(chat_template_kwargs or ())):
            raise InvalidRequestError(
                f"{name!r} cannot be given as a template argument.", field="chat_template_kwargs"
            )
        if not messages:
            raise InvalidRequestError(
                "messages is empty: a chat needs at least one message.", field="messages"
            )
        text = "\n".join(f"{one['role']}: {one['content']}" for one in messages)
        return text if continue_final_message else f"{text}\n" + "assistant: " * add_generation_prompt

    async def _run(
        self, request_id: str, text: str | None, ids: list[int], params: SamplingParams, deltas: bool
    ) -> AsyncGenerator[RequestOutput, None]:
        plain = [one for one in ids if one < 256] or [ord("x")]
        answer = self.answer(text or "") if callable(self.answer) else self.answer
        if answer is not None:
            plain = list(answer.encode())
        most = min(params.max_tokens or MAX_MODEL_LEN, MAX_MODEL_LEN - len(ids))
        stops = [params.stop] if isinstance(params.stop, str) else list(params.stop or ())
        made: list[int] = []
        finished: FinishReason | None = None
        stop_reason: str | None = None
        shown = 0
        times = RequestMetrics(time.monotonic())
        times.first_scheduled_time = times.arrival_time
        self.running += 1
        try:
            while finished is None:
                await asyncio.sleep(self.delay)
                if self.health == "dead":
                    raise EngineError("The engine has failed.")
                if self.fail_after is not None and len(made) >= self.fail_after:
                    raise self.failure or RequestFailedError(
                        "The request failed: on purpose", request_id=request_id
                    )
                if self.hold_after is not None and len(made) >= self.hold_after:
                    await self._hold()
                made.append(plain[len(made) % len(plain)])
                times.first_token_time = times.first_token_time or time.monotonic()
                for stop in stops:
                    if _text(made).endswith(stop):
                        finished, stop_reason = "stop", stop
                        kept = _text(made) if params.include_stop_str_in_output else _text(made)[: -len(stop)]
                if finished is None and answer is not None and len(made) == len(plain):
                    finished = "stop"
                if finished is None and len(made) >= most:
                    finished = "length"
                if finished is not None:
                    times.finished_time = time.monotonic()
                    self.served.append((len(ids), len(made) * params.n))
                whole = kept if stop_reason is not None else _text(made)
                if not deltas and finished is None:
                    continue
                new = made[-1:] if deltas else made
                yield RequestOutput(
                    request_id=request_id,
                    prompt=text,
                    prompt_token_ids=ids,
                    outputs=[
                        CompletionOutput(
                            index=index,
                            text=whole[shown:] if deltas else whole,
                            token_ids=list(new),
                            cumulative_logprob=None if params.logprobs is None else -0.5 * len(made),
                            logprobs=None
                            if params.logprobs is None
                            else [_logprobs(one, params.logprobs) for one in new],
                            finish_reason=finished,
                            stop_reason=stop_reason,
                        )
                        for index in range(params.n)
                    ],
                    finished=finished is not None,
                    metrics=times,
                    prompt_logprobs=None
                    if params.prompt_logprobs is None
                    else [None, *(_logprobs(one, params.prompt_logprobs) for one in ids[1:])],
                )
                shown = max(shown, len(whole))
        finally:
            self.running -= 1
            if finished is None:
                self.aborted += 1

    async def _hold(self) -> None:
        self.holding += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.holding -= 1


def _logprobs(token: int, count: int) -> dict[int, Logprob]:
    """The token itself is the most likely one; the next ids follow."""
    ids = [(token + i) % VOCAB_SIZE for i in range(max(count, 1))]
    return {
        one: Logprob(math.log(0.5) - i, rank=i + 1, decoded_token=_text([one])) for i, one in enumerate(ids)
    }


def make_info() -> EngineInfo:
    """Facts of a model that does not exist."""
    return EngineInfo(
        model="fake",
        source="nowhere",
        architecture="FakeForCausalLM",
        dtype="float32",
        device="cpu",
        num_parameters=1,
        tokenizer_files=ModelFiles(model="fake", directory=Path(), source="nowhere"),
        vocab_size=VOCAB_SIZE,
        max_model_len=MAX_MODEL_LEN,
        max_logprobs=20,
        max_num_seqs=8,
        block_size=16,
        num_blocks=64,
        weights_bytes=0,
        kv_bytes=0,
        seed=0,
        eos_token_ids=(EOS,),
        sampling_defaults={},
        enable_prefix_caching=True,
        report=[],
    )
