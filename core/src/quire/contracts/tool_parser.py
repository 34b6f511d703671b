"""The tool parser contract: from a model's text to calls of tools, and what the text of a forced call is.

One parser reads one completion. Knows text; knows no tokens, no request and no dialect.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quire.contracts.parsing import Event, TemplateSpec

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolParserSpec(TemplateSpec):
    """Description of a tool parser; `target` is a `ToolParser` subclass.

    Attributes:
        markers: what the model's chat template must contain, all of it. Without any it is used by name only.
        foreign: what the template must not contain: signs of another form that shares the markers.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that is offered to the model.

    Attributes:
        name: as it is called.
        description: for the model; None if there is none.
        parameters: JSON schema of its arguments.
        strict: its arguments must obey the schema whoever chose to call it.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolParserInit:
    """What a tool parser is constructed with, once per completion.

    Attributes:
        names: names of the tools that were offered. A call of any other is content.
        options: its validated options model, or None.
    """

    names: frozenset[str]
    options: BaseModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """How a call of one tool is written: `begin`, then JSON that `schema` allows, then `end`."""

    name: str
    begin: str
    schema: Mapping[str, Any]
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsForm:
    """How an answer of nothing but calls is written: `begin`, calls with `separator` between them, `end`.

    Enough to force calls by a grammar: an answer in this form, fed to the parser, gives calls alone.

    Attributes:
        begin, end: around all of them.
        calls: one for each tool.
        separator: between two calls; None if the form has room for one only.
        trigger: text that nothing but calls begin with, for answers where calls are free and their
            arguments are not; None if there is no such text. A form whose calls do not begin with it has it
            before all of them, and they end the answer.
        start: how else an answer of calls alone begins, white space aside, and no other answer does; None if
            only with the trigger.
    """

    calls: tuple[CallForm, ...]
    begin: str = ""
    end: str = ""
    separator: str | None = None
    trigger: str | None = None
    start: str | None = None


class ToolParser(ABC):
    """Reads one completion.

    What must hold, for every text: the joined events do not depend on how the text was cut; every character
    is in an event, but for a call's own marks and the white space around calls; `CallBegun` names an
    offered tool and is followed by `CallArguments`, then `CallEnded` or `CallBroken`; joined arguments of a
    call that ended are a JSON object; time is linear in the text, and memory beyond the text of the call
    that is open is constant.

    Attributes:
        special_tokens: the marks are special tokens, so that the text must show these.
    """

    special_tokens: bool = False

    def __init__(self, init: ToolParserInit) -> None:
        self.names = init.names

    @abstractmethod
    def feed(self, text: str) -> list[Event]:
        """Take the next piece of the text."""

    @abstractmethod
    def finish(self) -> list[Event]:
        """The text has ended: whatever is still open is broken or content. Called once, last."""

    @classmethod
    @abstractmethod
    def form(cls, tools: Sequence[Tool]) -> CallsForm:
        """How calls of these tools are written."""

    @staticmethod
    def draw_id() -> str:
        """An id for a call, in a form that the model's template takes back."""
        return f"call_{secrets.token_hex(12)}"
