"""The body of `POST /v1/responses`, and what a chat template makes of its items.

Knows OpenAI's request form. Knows no engine, no store and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import (
    ConfigDict,
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
from quire_server.responses.items import EITHER, Item, Message, read_items
from quire_server.responses.tools import read_tool_choice, read_tools
from quire_server.service import Chat, Service
from quire_server.service.chat import MAX_TOOLS
from quire_server.service.structured import format_form

LOGPROBS = "message.output_text.logprobs"
MAX_TOP_LOGPROBS = 20
MAX_ITEMS = 10_000
_TOOLS = "calls are the client's to count."
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_SUMMARIES = (None, "auto")
_FORMAT_FIELDS = frozenset({"name", "description", "schema", "strict"})

Key = Annotated[str, StringConstraints(max_length=64)]
Value = Annotated[str, StringConstraints(max_length=512)]


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


class Reasoning(BoundedModel):
    """How much the model is to think."""

    model_config = ConfigDict(extra="forbid")

    effort: str | None = None
    summary: str | None = None


class CreateResponse(RequestModel):
    """Body of `POST /v1/responses`; fields as in OpenAI's reference."""

    model: str | None = None
    input: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[Item], Tag("list"), Field(min_length=1, max_length=MAX_ITEMS)],
        EITHER,
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
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    reasoning: Reasoning | None = None
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
        "service_tier": "there is one tier.",
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "prompt_cache_retention": ("in_memory",),
        "service_tier": ("auto", "default"),
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

    @property
    def form_field(self) -> str | None:
        """The field that asks for a form of the answer; None if none does."""
        given = None if self.text is None else self.text.format
        return None if given is None or given.type == "text" else "text.format"

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
            ApiError: 400, an item or a piece of content cannot be served.
        """
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return read_items(self.input)

    def items(self) -> list[dict[str, Any]]:
        """The input's items, each with the beginning of an id."""
        items = [Item(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        return [item.view() for item in items]

    def chat(self, messages: Sequence[Message], service: Service) -> Chat:
        """The chat that these messages, earlier ones among them, make with the tools.

        Raises:
            ApiError: 400, with the field in `param`.
        """
        tools = read_tools(self.tools)
        choice, named = read_tool_choice(self.tool_choice, tools)
        effort = self._effort(service)
        return Chat(
            messages=messages,
            tools=tools,
            choice=choice,
            named=named,
            parallel=self.parallel_tool_calls is not False,
            thinking=None if effort is None else effort != "none",
            template_kwargs=None if effort is None else {"reasoning_effort": effort},
        )

    def _effort(self, service: Service) -> str | None:
        asked = self.reasoning
        if asked is None:
            return None
        if asked.effort is not None and asked.effort not in _EFFORTS:
            raise bad_request(f"reasoning.effort must be one of: {', '.join(_EFFORTS)}.", "reasoning.effort")
        if asked.summary not in _SUMMARIES:
            raise _unsupported("reasoning.summary", "thinking is told whole. Leave it out, or send 'auto'.")
        if asked.effort not in (None, "none") and not service.parsers.thinks:
            raise _unsupported("reasoning.effort", "no reasoning parser knows this model's chat template.")
        return asked.effort


def _unsupported(param: str, reason: str) -> ApiError:
    return bad_request(f"{param} cannot be served: {reason}", param, "unsupported_parameter")
