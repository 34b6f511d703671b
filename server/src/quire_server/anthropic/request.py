"""The bodies of `/v1/messages` and `/v1/messages/count_tokens`, and what a chat template makes of them.

Knows Anthropic's request form. Knows no engine and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from quire import StructuredOutputsParams
from quire.contracts import Tool
from quire_server.anthropic.content import Content, Turn, read_text, read_turns
from quire_server.errors import bad_request
from quire_server.http.fields import BoundedModel, RequestModel
from quire_server.service import Chat
from quire_server.service.chat import MAX_TOOLS
from quire_server.service.chat import ToolChoice as Choice
from quire_server.service.structured import format_form

MAX_MESSAGES = 100_000
_LEAST_BUDGET = 1024
_CHOICES: Mapping[str, Choice] = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
_TOOLS = "this server runs no tools; the client's own go in tools."


class Metadata(BoundedModel):
    """What is told about a request."""

    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[str, Field(max_length=512)] | None = None


class Message(BoundedModel):
    """A turn of the chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant", "system"]
    content: Content


class ToolParam(BoundedModel):
    """A tool of the client's own. The others, by their type, are Anthropic's servers'."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: StrictBool | None = None
    cache_control: dict[str, Any] | None = None
    eager_input_streaming: StrictBool | None = None
    input_examples: list[dict[str, Any]] | None = None


class ToolChoice(BoundedModel):
    """Whether a tool is to be used, and which."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: StrictBool | None = None


class Thinking(BoundedModel):
    """Whether the model is to think before it answers."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: StrictInt | None = None
    display: Literal["summarized", "omitted"] | None = None


class CountTokens(RequestModel):
    """Body of `POST /v1/messages/count_tokens`: what a prompt is made of."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Content | None = None
    tools: Annotated[list[ToolParam], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None

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
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "mcp_servers": ([],),
        "service_tier": ("auto", "standard_only"),
        "speed": ("standard",),
    }

    cache_control: dict[str, Any] | None = None
    """Accepted: prefixes are cached without being asked for."""

    @property
    def prefilled(self) -> bool:
        """Whether the last turn is the assistant's, so that the answer continues it."""
        return self.messages[-1].role == "assistant"

    def chat(self) -> Chat:
        """The chat, with neighbouring turns of one role made one.

        Raises:
            ApiError: 400, a piece of content cannot be served, or the prefilled answer ends in white space.
        """
        choice = self.tool_choice or ToolChoice(type="auto")
        if choice.type == "tool" and choice.name is None:
            raise bad_request("tool_choice has no name.", "tool_choice.name")
        return Chat(
            messages=self.turns(),
            tools=self._tools(),
            choice=_CHOICES[choice.type],
            named=choice.name if choice.type == "tool" else None,
            parallel=not choice.disable_parallel_tool_use,
            thinking=None if self.thinking is None else self.thinking.type != "disabled",
            shows_thinking=self._shows_thinking,
            add_generation_prompt=not self.prefilled,
            continue_final_message=self.prefilled,
        )

    @property
    def _shows_thinking(self) -> bool:
        """Thinking that was switched off, or is to be left out, is not shown should it come all the same."""
        return self.thinking is None or not (
            self.thinking.type == "disabled" or self.thinking.display == "omitted"
        )

    def _tools(self) -> tuple[Tool, ...]:
        found = []
        for index, tool in enumerate(self.tools or ()):
            if tool.type not in (None, "custom"):
                raise bad_request(
                    f"tools[{index}] is of type {tool.type[:200]!r}, which this server does not run: "
                    "only the client's own tools are served.",
                    f"tools[{index}].type",
                    "unsupported_parameter",
                )
            if tool.input_schema is None:
                raise bad_request(f"tools[{index}] has no input_schema.", f"tools[{index}].input_schema")
            found.append(
                Tool(
                    name=tool.name,
                    description=tool.description,
                    parameters=tool.input_schema,
                    strict=bool(tool.strict),
                )
            )
        return tuple(found)

    def turns(self) -> list[Turn]:
        """The turns of the chat.

        Raises:
            ApiError: 400, see `chat`.
        """
        turns: list[Turn] = []
        if self.system is not None:
            turns.append({"role": "system", "content": read_text(self.system, "system")})
        for index, message in enumerate(self.messages):
            for turn in read_turns(message.role, message.content, f"messages[{index}].content"):
                last = turns[-1] if turns else None
                if last is not None and last["role"] == turn["role"] and _is_plain(last) and _is_plain(turn):
                    last["content"] += f"\n{turn['content']}"
                else:
                    turns.append(turn)
        if self.prefilled:
            self._check_prefill(turns[-1])
        return turns

    def _check_prefill(self, turn: Turn) -> None:
        if "tool_calls" in turn:
            raise bad_request("The final assistant turn cannot be a use of a tool.", "messages")
        if turn["content"] != turn["content"].rstrip():
            raise bad_request("The final assistant turn cannot end with white space.", "messages")


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

    @property
    def form_field(self) -> str | None:
        """The field that asks for a form of the answer; None if none does."""
        if (self.output_config or {}).get("format") is not None:
            return "output_config.format"
        return None if self.output_format is None else "output_format"

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

    def check(self) -> None:
        """Refuse values that do not go together.

        Raises:
            ApiError: 400, with the field in `param`.
        """
        thinking = self.thinking
        if thinking is None:
            return
        budget = thinking.budget_tokens
        if (budget is None) == (thinking.type == "enabled"):
            raise bad_request(
                "thinking.budget_tokens goes with thinking of type 'enabled', and only with it.",
                "thinking.budget_tokens",
            )
        if budget is not None and not _LEAST_BUDGET <= budget < self.max_tokens:
            raise bad_request(
                f"thinking.budget_tokens is {budget}: it must be at least {_LEAST_BUDGET} and less "
                "than max_tokens.",
                "thinking.budget_tokens",
            )


def _is_plain(turn: Turn) -> bool:
    """Whether a turn is a role and a text, and no tool's result."""
    return turn.keys() == {"role", "content"}
