"""`/v1/chat/completions`: whole answers. `chat_stream` has the streamed ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter
from pydantic import WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from quire import CompletionOutput
from quire_server.errors import bad_request, naming
from quire_server.http.fields import examine
from quire_server.http.streaming import answered, streamed
from quire_server.openai.answers import Answer, fingerprint, new_id, sound, usage_object, with_errors
from quire_server.openai.chat_stream import chat_events
from quire_server.openai.fields import TEMPLATE_REASON, GenerationFields, Object, check_logprobs
from quire_server.openai.logprobs import chat_logprobs, prompt_logprobs
from quire_server.openai.messages import read_messages
from quire_server.openai.tools import call_object, read_tool_choice, read_tools, unsupported
from quire_server.service import Answered, Chat, OpenedChat, Service, Work
from quire_server.service.sampling import priority

_TOOLS = "use tools and tool_choice, which took its place."
_MEDIA = "the model reads and writes text only."
Messages = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"type": "string"}, "content": {}},
            },
        }
    ),
]
Tools = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "null"}]}),
]
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class ChatBody(GenerationFields):
    """What `/v1/chat/completions` takes."""

    refused: ClassVar[Mapping[str, str]] = {
        **GenerationFields.refused,
        "functions": _TOOLS,
        "function_call": _TOOLS,
        "web_search_options": "this server searches nothing.",
        "reasoning": "use reasoning_effort and include_reasoning.",
        "modalities": _MEDIA,
        "audio": _MEDIA,
        "mm_processor_kwargs": _MEDIA,
        "prediction": "predicted outputs are not built yet; leave it out.",
        "verbosity": "the model has no such setting; say it in a message.",
        "prompt_cache_retention": "blocks stay in the cache while there is room; leave it out.",
        "chat_template": TEMPLATE_REASON,
        "documents": "put their text into a message.",
        "echo": "chats give the answer alone; use continue_final_message to go on with a message.",
        "prompt": "chats take messages; completions are at /v1/completions.",
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **GenerationFields.harmless,
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "verbosity": ("medium",),
        "prompt_cache_retention": ("in_memory", "in-memory"),
        "documents": ([],),
        "echo": (False,),
    }

    messages: Messages
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_completion_tokens: int | None = None
    tools: Tools = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Object = None

    @property
    def top(self) -> int | None:
        """How many of the most likely tokens are shown per token; None for no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def names(self) -> dict[str, str]:
        """What the service and the engine call a field -> what it is called here."""
        limit = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        return {
            "prompt": "messages",
            "prompt_token_ids": "messages",
            "max_tokens": limit,
            "logprobs": "top_logprobs",
            "bad_words_token_ids": "bad_words",
            **self.form_names("tools"),
        }

    async def work(self, service: Service) -> tuple[Work, OpenedChat]:
        """What the service is asked for, and what reads the answers.

        Raises:
            ApiError: 400, with the field in `param`.
        """
        info = service.info
        self.check(info)
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs goes with logprobs: true only.", "top_logprobs")
        check_logprobs("top_logprobs", self.top_logprobs, info)
        with naming(self.names):
            params = self.params(
                service.engine.get_default_sampling_params(),
                info,
                logprobs=self.top,
                prompt_logprobs=self.prompt_logprobs,
                max_tokens=self._limit(),
                thinking_token_budget=self.thinking_token_budget,
            )
        opened = await service.open_chat(self.chat(service))
        with naming(self.names):
            params = opened.sampling(params)
        work = Work(
            prompts=[opened.prompt],
            params=params,
            stream=bool(self.stream),
            add_special_tokens=bool(self.add_special_tokens),
            priority=priority(self.priority),
            cache_salt=self.cache_salt,
            continued=opened.continued,
        )
        return work, opened

    def chat(self, service: Service) -> Chat:
        """The chat itself.

        Raises:
            ApiError: 400, with the field in `param`.
        """
        tools = read_tools(self.tools)
        choice, named = read_tool_choice(self.tool_choice, tools)
        return replace(
            plain_chat(self),
            tools=tools,
            choice=choice,
            named=named,
            parallel=self.parallel_tool_calls is not False,
            thinking=self._thinking(service),
            shows_thinking=self.include_reasoning is not False,
        )

    def _thinking(self, service: Service) -> bool | None:
        """What the effort asks of the model's thinking.

        Raises:
            ApiError: 400, the model does not think, or not as it is asked to.
        """
        effort = self.reasoning_effort
        if effort is not None and effort not in _EFFORTS:
            raise bad_request(
                f"reasoning_effort is {effort[:64]!r}: it must be one of: {', '.join(_EFFORTS)}.",
                "reasoning_effort",
            )
        if effort not in (None, "none") and not service.parsers.thinks:
            raise unsupported(
                "reasoning_effort",
                "no reasoning parser knows this model's chat template, so it does not think",
            )
        return None if effort is None else effort != "none"

    def _limit(self) -> int | None:
        new, old = self.max_completion_tokens, self.max_tokens
        if new is not None and old is not None and new != old:
            raise bad_request(
                "max_tokens and max_completion_tokens differ: give one of them.", "max_completion_tokens"
            )
        return old if new is None else new


def plain_chat(body: Any) -> Chat:
    """A chat without tools, from a body with messages and template fields.

    Raises:
        ApiError: 400, with the field in `param`.
    """
    kwargs = body.chat_template_kwargs
    if kwargs is not None and not isinstance(kwargs, dict):
        raise bad_request("chat_template_kwargs must be an object.", "chat_template_kwargs")
    effort = getattr(body, "reasoning_effort", None)
    if effort is not None:
        kwargs = {"reasoning_effort": effort, **(kwargs or {})}
    going_on = bool(body.continue_final_message)
    begin = body.add_generation_prompt
    return Chat(
        messages=read_messages(body.messages),
        add_generation_prompt=not going_on if begin is None else begin,
        continue_final_message=going_on,
        template_kwargs=kwargs,
    )


def add_chat(router: APIRouter, service: Service) -> None:
    """Add the route."""

    @router.post("/v1/chat/completions")
    async def create_chat_completion(request: Request, body: ChatBody) -> Response:
        """Answer a chat."""
        examine(request, body)
        service.check_ready()
        model = service.model(body.model)
        if not body.stream:
            return await answered(request, _whole(service, body, model))
        work, opened = await body.work(service)
        with naming(body.names):
            generation = await service.start(work)
        answer = _answer(service, generation.created, model, "chat.completion.chunk")
        return streamed(generation, with_errors(chat_events(generation, answer, body, work, opened)))


async def _whole(service: Service, body: ChatBody, model: str) -> Response:
    work, opened = await body.work(service)
    with naming(body.names):
        generation = await service.start(work)
    async with generation:
        (output,) = await generation.collect()
    choices = [_choice(one, body, opened) for one in sound(output)]
    rest: dict[str, Any] = {"choices": choices, "usage": usage_object(generation.usage)}
    if body.prompt_logprobs is not None:
        rest["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs or ())
    if body.return_token_ids:
        rest["prompt_token_ids"] = output.prompt_token_ids
    return _answer(service, generation.created, model, "chat.completion").whole(**rest)


def _choice(one: CompletionOutput, body: ChatBody, opened: OpenedChat) -> dict[str, Any]:
    logprobs = None
    if body.top is not None:
        logprobs = chat_logprobs(one.token_ids, one.logprobs or (), body.top)
    choice: dict[str, Any] = {
        "index": one.index,
        "message": _message(one.text, opened),
        "logprobs": logprobs,
        "finish_reason": one.finish_reason,
        "stop_reason": one.stop_reason,
    }
    if one.finish_reason == "stop" and "tool_calls" in choice["message"]:
        choice["finish_reason"] = "tool_calls"
    if body.return_token_ids:
        choice["token_ids"] = one.token_ids
    return choice


def _message(text: str, opened: OpenedChat) -> dict[str, Any]:
    """The message; without content where the model has called tools and said nothing."""
    if not opened.parses:
        return {"role": "assistant", "content": text, "refusal": None}
    found = Answered.of(opened.parser(), text)
    message: dict[str, Any] = {"role": "assistant", "content": found.content, "refusal": None}
    if found.reasoning:
        message |= {"reasoning_content": found.reasoning, "reasoning": found.reasoning}
    if found.calls:
        message["content"] = found.content or None
        message["tool_calls"] = [call_object(call) for call in found.calls]
    return message


def _answer(service: Service, created: int, model: str, kind: str) -> Answer:
    return Answer(
        id=new_id("chatcmpl"), kind=kind, created=created, model=model, fingerprint=fingerprint(service.info)
    )
