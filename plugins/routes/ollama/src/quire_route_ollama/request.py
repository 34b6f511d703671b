"""The bodies of Ollama's API. Knows Ollama's request form; knows no engine and no answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, StrictBool, StrictInt

from quire import StructuredOutputsParams
from quire_route_ollama.options import Options
from quire_server.errors import bad_request
from quire_server.http.fields import BoundedModel, RequestModel
from quire_server.service.structured import form

MAX_MESSAGES = 100_000
MAX_TOP_LOGPROBS = 20
_TEXT_ONLY = "this server takes text."
_ROLES = ("system", "user", "assistant")

Turn = dict[str, str]
"""Role and content, as chat templates take them."""


class Prompted(RequestModel):
    """What `/api/generate` and `/api/chat` share.

    `keep_alive` is accepted: the model stays loaded as long as the server runs.
    """

    model: Annotated[str, Field(min_length=1)]
    stream: StrictBool | None = None
    options: Options | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: float | str | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "chat_template": "only the model's own chat template is used.",
        "shift": "a full context ends the answer.",
        "think": "this server does not set thinking apart.",
        "truncate": "prompts are never shortened silently.",
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "shift": (False,),
        "think": (False,),
        "truncate": (False,),
    }

    def structured_outputs(self) -> StructuredOutputsParams | None:
        """The form that the answer must have: "json", or a JSON Schema.

        Raises:
            ApiError: 400, it is something else.
        """
        if not self.format:
            return None
        if self.format == "json":
            return form("format", json_object=True)
        if isinstance(self.format, str):
            raise bad_request('format must be "json" or a JSON Schema.', "format")
        return form("format", json=self.format)

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives per token are to be told; None if log probabilities are not asked for."""
        return (self.top_logprobs or 0) if self.logprobs or self.top_logprobs else None


class GenerateRequest(Prompted):
    """Body of `POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    raw: StrictBool | None = None

    refused: ClassVar[Mapping[str, str]] = {
        **Prompted.refused,
        "context": "send the whole chat to /api/chat.",
        "height": _TEXT_ONLY,
        "images": _TEXT_ONLY,
        "steps": _TEXT_ONLY,
        "suffix": "the model continues a prompt, it does not fill gaps.",
        "template": "only the model's own chat template is used; raw: true goes without.",
        "width": _TEXT_ONLY,
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **Prompted.harmless,
        "context": ([],),
        "images": ([],),
        "suffix": ("",),
        "template": ("",),
    }

    def turns(self) -> list[Turn]:
        """The chat that the prompt stands for."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        return [*turns, {"role": "user", "content": self.prompt or ""}]


class Message(BoundedModel):
    """A turn of the chat. What else it holds stays in `model_extra`."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | None = None


class ChatRequest(Prompted):
    """Body of `POST /api/chat`."""

    messages: Annotated[list[Message], Field(max_length=MAX_MESSAGES)] | None = None

    refused: ClassVar[Mapping[str, str]] = {**Prompted.refused, "tools": "this server has no tools."}
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {**Prompted.harmless, "tools": ([],)}

    def turns(self) -> list[Turn]:
        """The chat.

        Raises:
            ApiError: 400, a turn has a role or a part that cannot be served.
        """
        turns = []
        for index, message in enumerate(self.messages or ()):
            where = f"messages[{index}]"
            if message.role not in _ROLES:
                raise bad_request(
                    f"{where}.role is {message.role[:200]!r}: it must be one of {', '.join(_ROLES)}.",
                    f"{where}.role",
                )
            for name, value in (message.model_extra or {}).items():
                if value:
                    raise bad_request(
                        f"{where}.{name[:200]} cannot be served: a message is a role and a text.",
                        f"{where}.{name[:200]}",
                        "unsupported_parameter",
                    )
            turns.append({"role": message.role, "content": message.content or ""})
        return turns


class ShowRequest(RequestModel):
    """Body of `POST /api/show`. Older clients call the model `name`. `verbose` changes nothing."""

    model: str | None = None
    name: str | None = None
    verbose: StrictBool | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "options": "show tells what is loaded.",
        "system": "show tells what is loaded.",
        "template": "only the model's own chat template is used.",
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {"options": ({},), "system": ("",), "template": ("",)}
