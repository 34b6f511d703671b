"""The bodies of `/v1/messages` and `/v1/messages/count_tokens`, and what a chat template makes of them.

Knows Anthropic's request form. Knows no engine and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, StrictBool, StrictFloat, StrictInt, Tag

from quire import StructuredOutputsParams
from quire_server.errors import bad_request
from quire_server.http.fields import BoundedModel, RequestModel
from quire_server.service.structured import format_form

MAX_MESSAGES = 100_000
_TOOLS = "this server has no tools."

Turn = dict[str, str]
"""Role and content, as chat templates take them."""


class Metadata(BoundedModel):
    """What is told about a request."""

    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[str, Field(max_length=512)] | None = None


class Block(BoundedModel):
    """A piece of content. Its other fields stay in `model_extra` until the type is known."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


# Which of the two is meant is decided first, so that an error names the field inside.
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Block], Tag("list")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
]


class Message(BoundedModel):
    """A turn of the chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant", "system"]
    content: Content


class CountTokens(RequestModel):
    """Body of `POST /v1/messages/count_tokens`: what a prompt is made of."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Content | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "chat_template": "only the model's own chat template is used.",
        "container": _TOOLS,
        "context_management": "send the turns that the model is to see.",
        "diagnostics": "this server gives none.",
        "fallbacks": "there is one model.",
        "inference_geo": "there is one place.",
        "mcp_servers": _TOOLS,
        "service_tier": "there is one tier.",
        "speed": "there is one speed.",
        "thinking": "this server does not set thinking apart.",
        "tool_choice": _TOOLS,
        "tools": _TOOLS,
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mcp_servers": ([],),
        "service_tier": ("auto", "standard_only"),
        "speed": ("standard",),
        "thinking": ({"type": "disabled"},),
        "tool_choice": ({"type": "none"}, {"type": "auto"}),
        "tools": ([],),
    }

    cache_control: dict[str, Any] | None = None
    """Accepted: prefixes are cached without being asked for."""

    @property
    def prefilled(self) -> bool:
        """Whether the last turn is the assistant's, so that the answer continues it."""
        return self.messages[-1].role == "assistant"

    def turns(self) -> list[Turn]:
        """The chat, with neighbouring turns of one role made one.

        Raises:
            ApiError: 400, a piece of content is not text, or the prefilled answer ends in white space.
        """
        turns: list[Turn] = []
        if self.system is not None:
            turns.append({"role": "system", "content": _text(self.system, "system")})
        for index, message in enumerate(self.messages):
            text = _text(message.content, f"messages[{index}].content")
            if turns and turns[-1]["role"] == message.role:
                turns[-1]["content"] += f"\n{text}"
            else:
                turns.append({"role": message.role, "content": text})
        last = turns[-1]["content"]
        if self.prefilled and last != last.rstrip():
            raise bad_request("The final assistant turn cannot end with white space.", "messages")
        return turns


class CreateMessage(CountTokens):
    """Body of `POST /v1/messages`; fields as in Anthropic's reference."""

    max_tokens: StrictInt
    stop_sequences: list[str] | None = None
    temperature: Annotated[StrictFloat, Field(ge=0, le=1)] | None = None
    top_p: StrictFloat | None = None
    top_k: Annotated[StrictInt, Field(ge=0)] | None = None
    stream: StrictBool | None = None
    metadata: Metadata | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None

    def structured_outputs(self) -> StructuredOutputsParams | None:
        """The form that the answer must have: `output_config.format`, or `output_format` as betas had it.

        Raises:
            ApiError: 400, it is malformed, or something else of the output is to be set.
        """
        config = self.output_config or {}
        for name in config:
            if name != "format":
                raise bad_request(
                    f"output_config.{name[:64]} cannot be served: the form alone can be set.",
                    f"output_config.{name[:64]}",
                    "unsupported_parameter",
                )
        if config.get("format") is not None:
            return format_form(config["format"], "output_config.format")
        return format_form(self.output_format, "output_format")


def _text(content: str | list[Block], where: str) -> str:
    """Text; blocks are joined by line breaks, as the engine joins a message's parts."""
    if isinstance(content, str):
        return content
    return "\n".join(_blocks(content, where))


def _blocks(blocks: Sequence[Block], where: str) -> list[str]:
    texts = []
    for index, block in enumerate(blocks):
        here = f"{where}[{index}]"
        if block.type != "text":
            raise bad_request(
                f"Blocks of type {block.type[:200]!r} are not served; text is.",
                f"{here}.type",
                "unsupported_parameter",
            )
        for name, value in (block.model_extra or {}).items():
            if name == "cache_control" or (name == "citations" and not value):
                continue
            raise bad_request(f"Field {name[:200]!r} of a text block is not served: leave it out.", here)
        if block.text is None:
            raise bad_request("A text block has no text.", f"{here}.text")
        texts.append(block.text)
    return texts
