"""`/v1/completions`: whole answers. `completion_stream` has the streamed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter
from pydantic import WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from quire import CompletionOutput, RequestOutput
from quire_server.errors import bad_request, naming
from quire_server.http.fields import examine
from quire_server.http.streaming import answered, streamed
from quire_server.openai.answers import Answer, fingerprint, new_id, sound, usage_object, with_errors
from quire_server.openai.completion_stream import completion_events
from quire_server.openai.echo import Echo, echo_of
from quire_server.openai.fields import GenerationFields, check_logprobs
from quire_server.openai.logprobs import CompletionLogprobs, prompt_logprobs
from quire_server.openai.prompts import read_prompts
from quire_server.service import Service, Work
from quire_server.service.sampling import priority

OPENAI_MAX_TOKENS = 16
"""New tokens of a completion that names no limit."""

_NAMES = {"prompt_token_ids": "prompt", "bad_words_token_ids": "bad_words"}
_IDS = {"type": "array", "items": {"type": "integer"}}
_FORMS = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, _IDS]
Prompts = Annotated[Any, WithJsonSchema({"anyOf": [*_FORMS, {"type": "array", "items": _IDS}]})]


class CompletionBody(GenerationFields):
    """What `/v1/completions` takes."""

    refused: ClassVar[Mapping[str, str]] = {
        **GenerationFields.refused,
        "suffix": "the model continues texts and fills no gaps.",
        "messages": "completions take a prompt; chats are at /v1/chat/completions.",
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **GenerationFields.harmless,
        "suffix": ("",),
    }

    prompt: Prompts
    logprobs: int | None = None
    echo: bool | None = None

    @property
    def nothing_new(self) -> bool:
        """Only the prompt is wanted back. The engine makes one token then, which is dropped."""
        return self.max_tokens == 0 and bool(self.echo)

    def work(self, service: Service) -> Work:
        """What the service is asked for.

        Raises:
            ApiError: 400, with the field in `param`.
        """
        info = service.info
        self.check(info)
        check_logprobs("logprobs", self.logprobs, info)
        if self.max_tokens == 0 and not self.echo:
            raise bad_request("max_tokens is 0: it must be at least 1, unless echo is set.", "max_tokens")
        in_prompt = self.prompt_logprobs
        if self.echo and self.logprobs is not None:
            in_prompt = _more(self.logprobs, in_prompt)
        params = self.params(
            service.engine.get_default_sampling_params(),
            info,
            logprobs=self.logprobs,
            prompt_logprobs=in_prompt,
            max_tokens=self._limit(service),
        )
        return Work(
            prompts=read_prompts(self.prompt, info.vocab_size, service.settings.max_prompts),
            params=params,
            stream=bool(self.stream),
            add_special_tokens=self.add_special_tokens is not False,
            priority=priority(self.priority),
            cache_salt=self.cache_salt,
        )

    @property
    def names(self) -> dict[str, str]:
        """What the service and the engine call a field -> what it is called here."""
        return {**_NAMES, **self.form_names()}

    async def echo_of(self, service: Service, output: RequestOutput) -> Echo:
        """What stands before the completions of a prompt."""
        if not self.echo:
            return Echo()
        shown = self.skip_special_tokens is not False
        return await echo_of(service, output, logprobs=self.logprobs is not None, skip_special_tokens=shown)

    def _limit(self, service: Service) -> int | None:
        if self.nothing_new:
            return 1
        settings = service.settings
        if self.max_tokens is not None or settings.default_max_tokens is not None:
            return self.max_tokens
        return min(OPENAI_MAX_TOKENS, settings.max_tokens_cap or OPENAI_MAX_TOKENS)


def add_completions(router: APIRouter, service: Service) -> None:
    """Add the route."""

    @router.post("/v1/completions")
    async def create_completion(request: Request, body: CompletionBody) -> Response:
        """Continue prompts."""
        examine(request, body)
        service.check_ready()
        model = service.model(body.model)
        work = body.work(service)
        if not body.stream:
            return await answered(request, _whole(service, work, body, model))
        with naming(body.names):
            generation = await service.start(work)
        answer = _answer(service, generation.created, model)
        events = completion_events(generation, answer, body, work, service)
        return streamed(generation, with_errors(events))


async def _whole(service: Service, work: Work, body: CompletionBody, model: str) -> Response:
    with naming(body.names):
        generation = await service.start(work)
    async with generation:
        outputs = await generation.collect()
    choices: list[dict[str, Any]] = []
    dropped = 0
    for output in outputs:
        echo = await body.echo_of(service, output)
        for one in sound(output):
            dropped += len(one.token_ids) if body.nothing_new else 0
            choices.append(_choice(len(choices), one, output, body, echo))
    answer = _answer(service, generation.created, model)
    return answer.whole(choices=choices, usage=usage_object(generation.usage, dropped))


def _choice(
    index: int, one: CompletionOutput, output: RequestOutput, body: CompletionBody, echo: Echo
) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": index,
        "text": echo.text if body.nothing_new else echo.text + one.text,
        "logprobs": None,
        "finish_reason": "length" if body.nothing_new else one.finish_reason,
        "stop_reason": None if body.nothing_new else one.stop_reason,
    }
    new_ids = [] if body.nothing_new else one.token_ids
    if body.logprobs is not None:
        ids = [*output.prompt_token_ids, *new_ids] if body.echo else new_ids
        entries = list(one.logprobs or ())[: len(new_ids)]
        before = list(output.prompt_logprobs or ()) if body.echo else []
        choice["logprobs"] = CompletionLogprobs(body.logprobs).take(ids, [*before, *entries], echo)
    if body.prompt_logprobs is not None:
        choice["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs or ())
    if body.return_token_ids:
        choice["prompt_token_ids"] = output.prompt_token_ids
        choice["token_ids"] = new_ids
    return choice


def _answer(service: Service, created: int, model: str) -> Answer:
    return Answer(
        id=new_id("cmpl"),
        kind="text_completion",
        created=created,
        model=model,
        fingerprint=fingerprint(service.info),
    )


def _more(one: int, other: int | None) -> int:
    """The larger number of log probabilities; -1 is all."""
    return one if other is None else -1 if -1 in (one, other) else max(one, other)
