"""The body of `POST /v1/responses`, and what a chat template makes of its items.

Knows OpenAI's request form. Knows no engine, no store and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    Tag,
)

from quire import StructuredOutputsParams
from quire_server.errors import ApiError, bad_request
from quire_server.http.fields import BoundedModel, RequestModel
from quire_server.service.structured import format_form

LOGPROBS = "message.output_text.logprobs"
MAX_TOP_LOGPROBS = 20
MAX_ITEMS = 10_000
_TOOLS = "this server has no tools."
_KNOWN_ITEM = frozenset({"id", "status", "phase"})
_KNOWN_PART = frozenset({"annotations", "logprobs"})
_FORMAT_FIELDS = frozenset({"name", "description", "schema", "strict"})
_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})

Message = dict[str, str]
"""A turn of a chat: role and content, as chat templates take it."""

# Which of the two is meant is decided first, so that an error names the field inside.
_EITHER = Discriminator(lambda value: "text" if isinstance(value, str) else "list")

Key = Annotated[str, StringConstraints(max_length=64)]
Value = Annotated[str, StringConstraints(max_length=512)]


class Part(BoundedModel):
    """A piece of a message's content. Its other fields stay in `model_extra` until the type is known."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


_Content = Annotated[Annotated[str, Tag("text")] | Annotated[list[Part], Tag("list")], _EITHER]


class Item(BoundedModel):
    """An item of the input: a message, whether its type says so or not."""

    model_config = ConfigDict(extra="allow")

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: _Content | None = None


class Format(BoundedModel):
    """Form of the text."""

    model_config = ConfigDict(extra="allow")

    type: str = "text"


class Text(BoundedModel):
    """How the text is to be."""

    model_config = ConfigDict(extra="forbid")

    format: Format | None = None
    verbosity: str | None = None


class StreamOptions(BoundedModel):
    """How the stream is to be."""

    model_config = ConfigDict(extra="forbid")

    include_obfuscation: StrictBool | None = None


class CreateResponse(RequestModel):
    """Body of `POST /v1/responses`; fields as in OpenAI's reference."""

    model: str | None = None
    input: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[Item], Tag("list"), Field(min_length=1, max_length=MAX_ITEMS)],
        _EITHER,
    ]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: StrictInt | None = None
    temperature: StrictFloat | None = None
    top_p: StrictFloat | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: list[str] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    store: StrictBool | None = None
    background: StrictBool | None = None
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    text: Text | None = None
    truncation: str | None = None
    parallel_tool_calls: StrictBool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "access_programs": "this server has none.",
        "chat_template": "only the model's own chat template is used.",
        "context_management": "send the turns that the model is to see.",
        "conversation": "use previous_response_id.",
        "image": "this server takes text.",
        "max_tool_calls": _TOOLS,
        "moderation": "this server does not moderate.",
        "prompt": "prompts are not stored here; send input.",
        "prompt_cache_options": "prefixes are cached as they come; leave it out.",
        "prompt_cache_retention": "prefixes are cached in memory as they come; leave it out.",
        "reasoning": "this server does not set reasoning apart.",
        "service_tier": "there is one tier.",
        "tool_choice": _TOOLS,
        "tools": _TOOLS,
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "prompt_cache_retention": ("in_memory",),
        "reasoning": ({}, {"effort": "none"}, {"effort": None}, {"effort": None, "summary": None}),
        "service_tier": ("auto", "default"),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
    }

    @property
    def logprobs(self) -> int | None:
        """How many alternatives per token are to be told; None if log probabilities are not asked for."""
        if self.top_logprobs or LOGPROBS in (self.include or ()):
            return self.top_logprobs or 0
        return None

    def check(self) -> None:
        """Refuse values that cannot be served.

        Raises:
            ApiError: 400, with the field in `param`.
        """
        for index, name in enumerate(self.include or ()):
            if name != LOGPROBS:
                raise _unsupported(f"include[{index}]", f"{name[:200]!r} is not known here; {LOGPROBS!r} is.")
        if self.truncation not in (None, "disabled"):
            raise _unsupported(
                "truncation", "input is never shortened silently. Leave it out, or send 'disabled'."
            )
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            raise _unsupported(
                "stream_options.include_obfuscation", "events are not padded. Leave it out, or send false."
            )
        self._check_text()
        if self.background and self.store is False:
            raise bad_request("A response in the background has to be stored: store is false.", "store")
        if self.background and self.stream:
            raise _unsupported("stream", "a response in the background is retrieved, not streamed.")

    def _check_text(self) -> None:
        if self.text is None:
            return
        self.structured_outputs()
        if self.text.verbosity not in (None, "medium"):
            raise _unsupported(
                "text.verbosity", "models here do not know it. Leave it out, or send 'medium'."
            )

    def format_shown(self) -> dict[str, Any]:
        """The form of the text as the response repeats it."""
        given = None if self.text is None else self.text.format
        return {"type": "text"} if given is None else {"type": given.type, **(given.model_extra or {})}

    def structured_outputs(self) -> StructuredOutputsParams | None:
        """The form that the text must have.

        Raises:
            ApiError: 400, it is malformed.
        """
        given = None if self.text is None else self.text.format
        if given is None:
            return None
        extra = dict(given.model_extra or {})
        known = _FORMAT_FIELDS if given.type == "json_schema" else frozenset()
        for name in extra:
            if name not in known:
                raise bad_request(f"Unknown field {name[:200]!r} of text.format.", "text.format")
        if given.type not in ("text", "json_object", "json_schema"):
            raise _unsupported("text.format", f"{given.type[:200]!r} is not served.")
        return format_form({"type": given.type, **extra}, "text.format")

    def messages(self) -> list[Message]:
        """The input's turns.

        Raises:
            ApiError: 400, an item or a piece of content is not text.
        """
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return [_message(item, f"input[{index}]") for index, item in enumerate(self.input)]


def _message(item: Item, where: str) -> Message:
    if item.type != "message":
        raise _unsupported(
            f"{where}.type", f"items of type {item.type[:200]!r} are not served; messages are."
        )
    _only(item.model_extra, _KNOWN_ITEM, where)
    if item.role is None:
        raise bad_request(f"{where} has no role.", f"{where}.role")
    if item.content is None:
        raise bad_request(f"{where} has no content.", f"{where}.content")
    # Templates know "system"; "developer" is OpenAI's later name for it.
    role = "system" if item.role == "developer" else item.role
    if isinstance(item.content, str):
        return {"role": role, "content": item.content}
    return {"role": role, "content": _text(item.content, f"{where}.content")}


def _text(parts: Sequence[Part], where: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        here = f"{where}[{index}]"
        if part.type not in _TEXT_PARTS:
            raise _unsupported(f"{here}.type", f"content of type {part.type[:200]!r} is not served; text is.")
        _only(part.model_extra, _KNOWN_PART, here)
        if part.text is None:
            raise bad_request(f"{here} has no text.", f"{here}.text")
        texts.append(part.text)
    return "\n".join(texts)  # as the engine joins a message's parts


def _only(extra: Mapping[str, Any] | None, known: frozenset[str], where: str) -> None:
    for name in extra or ():
        if name not in known:
            raise bad_request(
                f"Unknown field {name[:200]!r} of {where}: leave it out.", where, "unknown_parameter"
            )


def _unsupported(param: str, reason: str) -> ApiError:
    return bad_request(f"{param} cannot be served: {reason}", param, "unsupported_parameter")
