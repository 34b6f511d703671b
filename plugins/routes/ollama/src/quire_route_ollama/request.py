"""The bodies of Ollama's API. Knows Ollama's request form; knows no engine and no answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt

from quire import StructuredOutputsParams
from quire_route_ollama.options import Options
from quire_route_ollama.tools import read_calls, read_tool_choice, read_tools
from quire_server.errors import bad_request
from quire_server.http.fields import BoundedModel, RequestModel
from quire_server.service import Chat
from quire_server.service.chat import MAX_TOOLS
from quire_server.service.structured import form

MAX_MESSAGES = 100_000
MAX_TOP_LOGPROBS = 20
_TEXT_ONLY = "this server takes text."
_ROLES = ("system", "user", "assistant", "tool")

Turn = dict[str, Any]
"""Role, content and what else chat templates take."""


class Prompted(RequestModel):
    """What `/api/generate` and `/api/chat` share.

    `keep_alive` is accepted: the model stays loaded as long as the server runs.
    """

    model: Annotated[str, Field(min_length=1)]
    stream: StrictBool | None = None
    options: Options | None = None
    think: StrictBool | Literal["low", "medium", "high"] | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: float | str | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "chat_template": "only the model's own chat template is used.",
        "shift": "a full context ends the answer.",
        "truncate": "prompts are never shortened silently.",
    }
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "shift": (False,),
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

    def chat(self, turns: Sequence[Turn], *, begun: bool = False) -> Chat:
        """The chat that these turns make; `begun` if the last one is an answer to be continued."""
        level = self.think if isinstance(self.think, str) else None
        return Chat(
            messages=turns,
            thinking=None if self.think is None else bool(self.think),
            # An answer that is not to hold thinking does not, even if the model cannot do without.
            shows_thinking=self.think is not False,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            template_kwargs=None if level is None else {"reasoning_effort": level},
        )


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
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None

    def asked(self, turns: Sequence[Turn], *, begun: bool) -> Chat:
        """The chat with its tools.

        Raises:
            ApiError: 400, they are malformed.
        """
        choice, named = read_tool_choice(self.tool_choice)
        return replace(
            self.chat(turns, begun=begun),
            tools=read_tools(self.tools),
            choice=choice,
            named=named,
            parallel=self.parallel_tool_calls is not False,
        )

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
            turns.append(_turn(message, where))
        return turns


def _turn(message: Message, where: str) -> Turn:
    turn: Turn = {"role": message.role, "content": message.content or ""}
    for name, value in (message.model_extra or {}).items():
        if not value:
            continue
        place = f"{where}.{name[:200]}"
        if name == "tool_calls" and message.role == "assistant":
            turn["tool_calls"] = read_calls(value, place)
        elif name == "thinking" and message.role == "assistant" and isinstance(value, str):
            turn["reasoning_content"] = value
        elif name in ("tool_name", "tool_call_id") and message.role == "tool" and isinstance(value, str):
            turn["name" if name == "tool_name" else name] = value
        else:
            raise bad_request(
                f"{place} cannot be served: a message is a role and a text, an assistant's thinking and "
                "tool_calls, or a tool's tool_name and tool_call_id.",
                place,
                "unsupported_parameter",
            )
    return turn


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
