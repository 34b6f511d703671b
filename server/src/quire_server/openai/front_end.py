"""OpenAI's front end: its routes in one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from quire_server.front_end import FrontEnd
from quire_server.openai.chat import add_chat
from quire_server.openai.completions import add_completions
from quire_server.openai.embeddings import add_embeddings
from quire_server.openai.models import add_models
from quire_server.openai.tokens import add_tokens
from quire_server.service import Service


def front_end(service: Service, options: Any) -> FrontEnd:
    """The routes, around a service. There are no options."""
    router = APIRouter()
    for add in (add_models, add_completions, add_chat, add_tokens, add_embeddings):
        add(router, service)
    return FrontEnd(router=router, error_prefixes=("/v1", "/tokenize", "/tokenizer_info", "/detokenize"))
