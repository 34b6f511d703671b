"""`/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from fastapi import APIRouter
from pydantic import ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from quire.errors import InvalidRequestError
from quire_server.errors import bad_request, from_engine, naming
from quire_server.http.fields import RequestModel, examine
from quire_server.openai.answers import encode
from quire_server.openai.chat import Messages, Tools, plain_chat
from quire_server.openai.fields import TEMPLATE_REASON, Object, TokenIds
from quire_server.openai.prompts import read_ids
from quire_server.openai.tools import read_tools
from quire_server.service import Service

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class TokenizeBody(RequestModel):
    """A prompt, or the messages of a chat."""

    model_config = ConfigDict(strict=True)

    refused: ClassVar[Mapping[str, str]] = {
        "chat_template": TEMPLATE_REASON,
        "mm_processor_kwargs": "the model reads text only.",
    }

    model: str | None = None
    prompt: str | None = None
    messages: Messages = None
    tools: Tools = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Object = None
    return_token_strs: bool | None = None


class DetokenizeBody(RequestModel):
    """Token ids."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    tokens: TokenIds


def add_tokens(router: APIRouter, service: Service) -> None:
    """Add the routes."""

    @router.post("/tokenize")
    async def tokenize(request: Request, body: TokenizeBody) -> Response:
        """Token ids of a prompt, as a request would have them."""
        examine(request, body)
        service.check_ready()
        service.model(body.model)
        text, special = await _text(service, body)
        try:
            ids = await service.engine.tokenize(text, special)
        except InvalidRequestError as error:
            raise from_engine(error) from error
        names = service.engine.get_tokenizer().convert_ids_to_tokens(ids) if body.return_token_strs else None
        return _json(
            {
                "count": len(ids),
                "max_model_len": service.info.max_model_len,
                "tokens": ids,
                "token_strs": names,
            }
        )

    @router.get("/tokenizer_info")
    async def tokenizer_info() -> Response:
        """What a client needs to count and cut prompts as the server does."""
        service.check_ready()
        tokenizer = service.engine.get_tokenizer()
        special = {name: getattr(tokenizer, name, None) for name in _SPECIAL}
        return _json(
            {
                "tokenizer_class": type(tokenizer).__name__,
                "model_max_length": service.info.max_model_len,
                **{name: None if token is None else str(token) for name, token in special.items()},
                "chat_template": getattr(tokenizer, "chat_template", None),
            }
        )

    @router.post("/detokenize")
    async def detokenize(request: Request, body: DetokenizeBody) -> Response:
        """Text of token ids, special tokens included."""
        examine(request, body)
        service.check_ready()
        service.model(body.model)
        ids = read_ids(body.tokens, "tokens", service.info.vocab_size)
        return _json({"prompt": await service.engine.detokenize(ids, False)})


async def _text(service: Service, body: TokenizeBody) -> tuple[str, bool]:
    """The text, and whether special tokens are added to it: templates bring their own."""
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("Give either a prompt or messages.", "prompt")
    if body.prompt is not None:
        return body.prompt, body.add_special_tokens is not False
    with naming({"prompt": "messages"}):
        chat = replace(plain_chat(body), tools=read_tools(body.tools))
        return (await service.open_chat(chat)).prompt, bool(body.add_special_tokens)


def _json(value: dict[str, Any]) -> Response:
    return Response(encode(value), media_type="application/json")
