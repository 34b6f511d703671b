"""A chat as front ends ask for it, in no dialect, and what it becomes: a prompt, and parsers of its answers.

Knows the engine's parsers and the templates' variables. Knows no dialect and no HTTP but the statuses of
`ApiError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from quire import EngineInfo, SamplingParams, StructuredOutputsParams
from quire.contracts import ReasoningParser, ReasoningParserInit, Tool, ToolParser, ToolParserInit
from quire_server.errors import ApiError, bad_request
from quire_server.service.answer import AnswerParser
from quire_server.service.forcing import after_thinking, forced_calls, strict_calls

ToolChoice = Literal["none", "auto", "required"]

MAX_TOOLS = 1024
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """What a client asks for.

    Attributes:
        messages: as templates take them; arguments of earlier calls are objects.
        tools: that the model may call.
        choice: whether it may, or must; "none" hides the tools from it.
        named: the one tool that it must call.
        parallel: an answer may hold several calls. If not, those after the first are left out.
        thinking: tell the template to let the model think, or not to; None leaves it to the model.
        shows_thinking: give the thinking to the client.
        add_generation_prompt, continue_final_message: how the prompt ends.
        template_kwargs: further variables of the template.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Tool] = ()
    choice: ToolChoice = "auto"
    named: str | None = None
    parallel: bool = True
    thinking: bool | None = None
    shows_thinking: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: Mapping[str, Any] | None = None

    @property
    def offered(self) -> Sequence[Tool]:
        """The tools that the model is told of."""
        return () if self.choice == "none" else self.tools


class Parsers:
    """The parsers that an engine's plan names; loaded when they are first needed."""

    def __init__(self, info: EngineInfo) -> None:
        self._info = info
        self._plan = info.plugins.plugins

    @property
    def thinks(self) -> bool:
        """Whether thinking can be told from the answer."""
        return "reasoning_parser" in self._plan

    @property
    def calls(self) -> bool:
        """Whether calls of tools can be read."""
        return "tool_parser" in self._plan

    def check(self, chat: Chat) -> None:
        """Refuse what the model's text cannot be read for.

        Raises:
            ApiError: 400, with the field in `param`: `tools`, `tool_choice` or `thinking`.
        """
        if len(chat.tools) > MAX_TOOLS:
            raise bad_request(f"{len(chat.tools)} tools; at most {MAX_TOOLS} are allowed.", "tools")
        _check_depth([tool.parameters for tool in chat.tools], "tools")
        _check_depth([message.get("tool_calls") for message in chat.messages], "messages")
        names = {tool.name for tool in chat.tools}
        if len(names) < len(chat.tools):
            raise bad_request("Two tools have the same name.", "tools")
        if chat.named is not None and chat.named not in names:
            raise bad_request(
                f"tool_choice names {chat.named[:200]!r}, which is not among the tools.", "tool_choice"
            )
        if (chat.choice == "required" or chat.named is not None) and not chat.tools:
            raise bad_request("tool_choice asks for a call, and there are no tools.", "tool_choice")
        if chat.offered and not self.calls:
            raise _unsupported(
                "tools", "no tool parser knows this model's chat template. Name one as tool_call_parser."
            )
        if chat.offered and chat.choice == "auto" and not self._info.auto_tool_choice:
            raise _unsupported("tools", "enable_auto_tool_choice is false, so a call has to be asked for.")
        self._check_strict(chat)
        if chat.thinking and not self.thinks:
            raise _unsupported(
                "thinking",
                "no reasoning parser knows this model's chat template. Name one as reasoning_parser.",
            )

    def _check_strict(self, chat: Chat) -> None:
        """Strict tools that the model may call need a form that tells where a call begins."""
        strict = next((index for index, tool in enumerate(chat.offered) if tool.strict), None)
        if strict is None or chat.choice == "required":
            return
        if self.tool_parser[0].form(chat.offered).trigger is None:
            raise _unsupported(
                f"tools[{strict}]",
                "nothing tells where this model begins a call, so strict holds with tool_choice 'required' "
                "or a named tool only.",
            )

    def open(self, chat: Chat, prompt: str) -> OpenedChat:
        """The chat with its prompt."""
        return OpenedChat(chat, prompt, self)

    @cached_property
    def tool_parser(self) -> tuple[type[ToolParser], Any]:
        """Class and options."""
        planned = self._plan["tool_parser"]
        return planned.load(), planned.load_options()

    @cached_property
    def reasoning_parser(self) -> tuple[type[ReasoningParser], Any]:
        """Class and options."""
        planned = self._plan["reasoning_parser"]
        return planned.load(), planned.load_options()


class OpenedChat:
    """A chat and its prompt: gives parsers of its answers.

    Attributes:
        prompt: its text.
    """

    def __init__(self, chat: Chat, prompt: str, parsers: Parsers) -> None:
        self.prompt = prompt
        self._chat = chat
        self._parsers = parsers

    @property
    def parses(self) -> bool:
        """Whether an answer may hold anything but content."""
        return self._parsers.thinks or bool(self._chat.offered)

    @property
    def continued(self) -> str | None:
        """The beginning of the answer, where the prompt ends with one that the model is to continue."""
        return self._chat.messages[-1].get("content") if self._chat.continue_final_message else None

    def sampling(self, params: SamplingParams) -> SamplingParams:
        """A request's parameters, and what reading its answer takes: special tokens that are marks, and a
        grammar for calls that are forced, or that are to obey their schema.

        Raises:
            ApiError: 400, the request asks for another form of its output too, or for beams, or bounds a
                thinking that nobody reads.
        """
        if params.thinking_token_budget is not None and not self._parsers.thinks:
            raise _unsupported(
                "thinking_token_budget",
                "no reasoning parser knows this model's chat template. Name one as reasoning_parser.",
            )
        if not self.parses:
            return params
        if self.parser().special_tokens:
            params = replace(params, skip_special_tokens=False)
        tag = self._tag()
        if tag is None:
            tag = self._behind_thinking(params.structured_outputs)
            if tag is None:
                return params
        elif params.structured_outputs is not None:
            raise bad_request(
                "Forced or strict calls and another form of the output exclude each other.", "tools"
            )
        elif params.use_beam_search:
            raise bad_request(
                "Forced and strict calls are held by a grammar, which beams do not follow: leave out "
                "use_beam_search, or let calls be free.",
                "tools",
            )
        return replace(params, structured_outputs=StructuredOutputsParams(structural_tag=tag))

    def _tag(self) -> dict[str, Any] | None:
        """The structural tag that holds calls to their form; None where they are free."""
        chat = self._chat
        forced = chat.choice == "required"
        if not chat.offered or not (forced or any(tool.strict for tool in chat.offered)):
            return None
        form = self._parsers.tool_parser[0].form(chat.offered)
        end = self.parser().thinking_end
        if forced:
            return forced_calls(form, named=chat.named, parallel=chat.parallel, thinking_end=end)
        return strict_calls(form, chat.offered, parallel=chat.parallel, thinking_end=end)

    def _behind_thinking(self, form: StructuredOutputsParams | None) -> dict[str, Any] | None:
        """A form where the prompt has opened the thinking: this is free, and the form is the answer's."""
        end = None if form is None else self.parser().thinking_end
        if form is None or end is None:
            return None
        tag = after_thinking(form.source, end)
        if tag is None:
            raise bad_request(
                "The prompt has opened the model's thinking, and this form cannot follow it: ask for no "
                "thinking, or for another form.",
                "structured_outputs",
            )
        return tag

    def parser(self) -> AnswerParser:
        """A parser for one completion."""
        chat = self._chat
        reasoning = tools = None
        if self._parsers.thinks:
            thinker, options = self._parsers.reasoning_parser
            init = ReasoningParserInit(prompt=self.prompt, continued=self.continued, options=options)
            reasoning = thinker(init)
        if chat.offered:
            caller, options = self._parsers.tool_parser
            names = frozenset(tool.name for tool in chat.offered)
            tools = caller(ToolParserInit(names=names, options=options))
        return AnswerParser(
            reasoning,
            tools,
            parallel=chat.parallel and chat.named is None,
            shows_thinking=chat.shows_thinking,
        )


def _check_depth(values: list[Any], param: str) -> None:
    """Refuse JSON that is nested so deeply that writing it could fail further on."""
    for _ in range(_MAX_DEPTH):
        values = [
            inner
            for value in values
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not values:
            return
    raise bad_request(f"{param} is nested too deeply: at most {_MAX_DEPTH} levels are allowed.", param)


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Tools as chat templates take them, which is OpenAI's form; None for none."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                **({} if tool.description is None else {"description": tool.description}),
                "parameters": dict(tool.parameters),
            },
        }
        for tool in tools
    ] or None


def _unsupported(param: str, reason: str) -> ApiError:
    return bad_request(f"{param} cannot be served: {reason}", param, "unsupported_parameter")
