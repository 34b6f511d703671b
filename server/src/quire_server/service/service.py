"""`Service`: what front ends call. Names, limits, admission and books, the same for every dialect.

Knows no dialect and no HTTP but the statuses of `ApiError`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quire import EngineInfo, SamplingParams
from quire.errors import CheckpointError, EngineError, InvalidRequestError, OverloadedError
from quire_server.config import ServeConfig
from quire_server.errors import bad_request, from_engine, not_found, overloaded, told, unavailable
from quire_server.metrics import ServerMetrics
from quire_server.service.chat import Chat, OpenedChat, Parsers, template_tools
from quire_server.service.engine import Engine
from quire_server.service.generation import Generation

logger = logging.getLogger(__name__)

Prompt = str | list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a client asks for, in no dialect.

    Attributes:
        prompts: texts or token ids; each gives `params.n` completions.
        params: how to sample. `max_tokens` None means the server's default.
        stream: deliver deltas as they come; else whole outputs.
        add_special_tokens: whether texts get the tokenizer's BOS; false for rendered chats.
        priority: lower runs earlier under the policy "priority".
        cache_salt: prefix-cache entries are shared among equal salts only.
        continued: the beginning of an answer that the prompts end with; None where they end before it.
    """

    prompts: Sequence[Prompt]
    params: SamplingParams
    stream: bool = False
    add_special_tokens: bool = True
    priority: int = 0
    cache_salt: str | None = None
    continued: str | None = None


class Service:
    """The engine with the server's limits around it.

    Attributes:
        engine: the engine client.
        settings: the `serve:` section.
        metrics: where requests are counted.
        draining: the server is about to stop; new work is refused.
        active: generations under way.
    """

    def __init__(self, engine: Engine, settings: ServeConfig, metrics: ServerMetrics) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = metrics
        self.draining = False
        self.active = 0

    @property
    def info(self) -> EngineInfo:
        """What is known of the loaded model."""
        return self.engine.info

    @property
    def model_names(self) -> list[str]:
        """Names under which the model is served, the main one first."""
        return self.settings.served_model_name or [self.info.model]

    def model(self, name: str | None) -> str:
        """The served name for a name that a client gave; the main one for None.

        Raises:
            ApiError: 404, it is not served here.
        """
        names = self.model_names
        if name is None:
            return names[0]
        if name not in names:
            raise not_found(
                f"The model {name[:200]!r} does not exist here. Served are: {', '.join(names)}.",
                code="model_not_found",
                param="model",
            )
        return name

    def check_ready(self) -> None:
        """Refuse work that could not run.

        Raises:
            ApiError: 503.
        """
        if self.draining:
            raise unavailable("The server is about to stop and takes no new requests.", "draining")
        health = self.engine.health
        if health != "ready":
            reasons = {
                "loading": "The model is still being loaded.",
                "stalled": "The engine does not respond.",
                "dead": "The engine has died.",
            }
            raise unavailable(reasons[health], f"engine_{health}")

    async def start(self, work: Work) -> Generation:
        """Submit everything, or nothing.

        Returns:
            Once the engine has accepted all of it, so that a refusal is still an HTTP error.

        Raises:
            ApiError: 400 it can never be served, 429 the queue is full, 503 the engine takes no work.
        """
        self.check_ready()
        params = self._limited(work)
        streams: list[Any] = []
        try:
            for prompt in work.prompts:
                stream = await self.engine.submit(
                    _as_prompt(prompt, work),
                    params,
                    priority=work.priority,
                    add_special_tokens=work.add_special_tokens,
                    deltas=work.stream,
                )
                streams.append(stream)
                streams[-1] = self.metrics.observe(stream, params, deltas=work.stream)
        except BaseException as error:
            for stream in streams:
                await stream.aclose()
            if isinstance(error, InvalidRequestError):
                raise from_engine(error) from error
            if isinstance(error, OverloadedError):
                self.metrics.rejected("queue_full")
                raise overloaded(str(error)) from error
            if isinstance(error, EngineError):
                raise unavailable(str(error), "engine_unavailable") from error
            raise
        finally:
            if params.structured_outputs is not None:
                self.metrics.compiled(self.engine.compile_seconds)
        self.active += 1
        return Generation(
            streams, deltas=work.stream, timeout=self.settings.request_timeout, ended=self._generation_ended
        )

    def _generation_ended(self) -> None:
        self.active -= 1

    async def open_chat(self, chat: Chat) -> OpenedChat:
        """The prompt of a chat, and what reads its answers.

        Raises:
            ApiError: 400, the messages, the tools or the model's template do not allow it: it refuses them,
                fails at them, or would go beyond its limits with them.
        """
        parsers = self.parsers
        parsers.check(chat)
        # What templates call the switch, where they have one: Qwen's and those that followed.
        thinking = {} if chat.thinking is None else {"enable_thinking": chat.thinking}
        kwargs = {**(chat.template_kwargs or {}), **thinking} or None
        prompt = await self._render(
            chat.messages,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
            tools=template_tools(chat.offered),
            chat_template_kwargs=kwargs,
        )
        return parsers.open(chat, prompt)

    @cached_property
    def parsers(self) -> Parsers:
        """Parsers of what the model writes."""
        return Parsers(self.info)

    async def _render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        try:
            return await self.engine.render_chat(messages, **options)
        except InvalidRequestError as error:
            raise from_engine(error) from error
        except CheckpointError as error:
            # What a template fails at is, for all that is known, what the client gave it.
            logger.warning("%s", error)
            raise bad_request(told(str(error)), "messages") from error

    def _limited(self, work: Work) -> SamplingParams:
        """The parameters with the server's defaults and caps applied."""
        settings, params = self.settings, work.params
        if not work.prompts:
            raise bad_request("The prompt is empty: it needs at least one token.", "prompt")
        if len(work.prompts) > settings.max_prompts:
            raise bad_request(
                f"{len(work.prompts)} prompts in one request; at most {settings.max_prompts} are allowed.",
                "prompt",
            )
        for name in ("n", "best_of"):
            asked = getattr(params, name)
            if asked is not None and asked > settings.max_n:
                raise bad_request(f"{name} is {asked}; at most {settings.max_n} is allowed here.", name)
        if work.stream and params.use_beam_search:
            raise bad_request(
                "use_beam_search cannot be streamed: the best beams are known only at the end.",
                "use_beam_search",
            )
        if work.stream and params.best_of is not None and params.best_of > params.n:
            raise bad_request("best_of cannot be streamed: the best are known only at the end.", "best_of")
        if params.max_tokens is not None:
            cap = settings.max_tokens_cap
            if cap is not None and params.max_tokens > cap:
                raise bad_request(
                    f"max_tokens is {params.max_tokens}; at most {cap} is allowed here.", "max_tokens"
                )
            return params
        bounds = (settings.default_max_tokens, settings.max_tokens_cap)
        most = min((bound for bound in bounds if bound is not None), default=None)
        try:
            return dataclasses.replace(params, max_tokens=most)
        except InvalidRequestError as error:  # min_tokens is beyond the server's own limit
            raise from_engine(error) from error


def _as_prompt(prompt: Prompt, work: Work) -> Any:
    """A prompt as the engine takes it."""
    counts = work.params.thinking_token_budget is not None  # whose thinking it may be that goes on
    more = {"cache_salt": work.cache_salt, "continued": work.continued if counts else None}
    given = {name: value for name, value in more.items() if value is not None}
    return {"prompt" if isinstance(prompt, str) else "prompt_token_ids": prompt, **given} if given else prompt
