"""`AnswerParser`: one completion's text as thinking, content and calls; and all of it together, `Answered`.

Thinking is read first, calls in what is left. Knows the parsers' contracts; knows no dialect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from quire.contracts import (
    CallArguments,
    CallBegun,
    CallBroken,
    CallEnded,
    Content,
    Event,
    Reasoning,
    ReasoningParser,
    ToolParser,
)


@dataclass(slots=True)
class ToolCall:
    """A call.

    Attributes:
        id: drawn for it.
        name: the tool's.
        arguments: JSON of an object.
    """

    id: str
    name: str
    arguments: str = ""


class AnswerParser:
    """Feed it what is new of a completion; then `finish`.

    Args:
        reasoning, tools: the parsers; None for what the answer cannot hold.
        parallel: let all calls through; else the first alone.
        shows_thinking: let thinking through.

    Attributes:
        called: a call is complete.
        thinking_tokens: tokens of the thinking, where `feed` is told of tokens.
    """

    def __init__(
        self,
        reasoning: ReasoningParser | None,
        tools: ToolParser | None,
        *,
        parallel: bool = True,
        shows_thinking: bool = True,
    ) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self._parallel = parallel
        self._shows_thinking = shows_thinking
        self.called = False
        self.thinking_tokens = 0

    @property
    def special_tokens(self) -> bool:
        """Whether the text must show special tokens."""
        parsers = (self._reasoning, self._tools)
        return any(parser is not None and parser.special_tokens for parser in parsers)

    @property
    def thinking_end(self) -> str | None:
        """What ends the thinking, if it is open."""
        return self._reasoning.end if self._reasoning is not None and self._reasoning.inside else None

    def draw_id(self) -> str:
        """An id for a call."""
        assert self._tools is not None
        return self._tools.draw_id()

    def feed(self, text: str, num_tokens: int = 0) -> list[Event]:
        """What the next piece of the text, of so many tokens, is."""
        if self._reasoning is None:
            return self._shown(self._read([Content(text)] if text else []))
        was = self._reasoning.inside
        events = self._reasoning.feed(text)
        if was or self._reasoning.inside:
            self.thinking_tokens += num_tokens
        return self._shown(self._read(events))

    def finish(self) -> list[Event]:
        """What is left at the end of the text."""
        events: list[Event] = [] if self._reasoning is None else self._reasoning.finish()
        events = self._read(events)
        if self._tools is not None:
            events += self._tools.finish()
        return self._shown(events)

    def _read(self, events: Iterable[Event]) -> list[Event]:
        if self._tools is None:
            return list(events)
        found: list[Event] = []
        for event in events:
            found += self._tools.feed(event.text) if isinstance(event, Content) else [event]
        return found

    def _shown(self, events: list[Event]) -> list[Event]:
        shown: list[Event] = []
        for event in events:
            if isinstance(event, Reasoning) and not self._shows_thinking:
                continue
            if (
                isinstance(event, CallBegun | CallArguments | CallEnded)
                and self.called
                and not self._parallel
            ):
                continue
            if isinstance(event, CallBroken) and self.called and not self._parallel:
                event = Content(event.text)
            if isinstance(event, CallEnded):
                self.called = True
            shown.append(event)
        return shown


@dataclass(slots=True)
class Answered:
    """A completion, parsed.

    Attributes:
        content: the answer's text.
        reasoning: the thinking.
        calls: complete calls, in order; with `open` one that has not ended.
        open: the last call is still being written.
    """

    content: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    open: bool = False

    def add(self, event: Event, call_id: str = "") -> None:
        """Take an event.

        Args:
            event: the next one.
            call_id: id of the call, if one begins.
        """
        match event:
            case Content(text):
                self.content += text
            case Reasoning(text):
                self.reasoning += text
            case CallBegun(name):
                self.calls.append(ToolCall(call_id, name))
                self.open = True
            case CallArguments(text):
                self.calls[-1].arguments += text
            case CallEnded():
                self.open = False
            case CallBroken(text):
                self.calls.pop()
                self.open = False
                self.content += text

    @classmethod
    def of(cls, parser: AnswerParser, text: str) -> Answered:
        """A whole text, parsed."""
        answered = cls()
        for event in [*parser.feed(text), *parser.finish()]:
            answered.add(event, parser.draw_id() if isinstance(event, CallBegun) else "")
        return answered
