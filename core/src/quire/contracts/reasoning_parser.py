"""The reasoning parser contract: what of a model's text is thinking, and what is the answer.

One parser reads one completion. Knows text; knows no tokens, no request and no dialect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quire.contracts.parsing import Event, TemplateSpec

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningParserSpec(TemplateSpec):
    """Description of a reasoning parser; `target` is a `ReasoningParser` subclass.

    Attributes:
        markers: what the model's chat template must contain, all of it. Without any it is used by name only.
        foreign: what the template must not contain: signs of another form that shares the markers.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningParserInit:
    """What a reasoning parser is constructed with, once per completion.

    Attributes:
        prompt: the prompt's text, as the template wrote it: it may have opened the thinking, or closed it.
        continued: the beginning of the answer, where the prompt ends with one that the model is to continue.
        options: its validated options model, or None.
    """

    prompt: str = ""
    continued: str | None = None
    options: BaseModel | None = None


class ReasoningParser(ABC):
    """Reads one completion; gives `Reasoning` and `Content`, and no other events.

    What must hold, for every text: the joined events do not depend on how the text was cut; every character
    is in an event, but for the marks and the white space next to them; time is linear in the text, and
    memory is constant but for white space that is held back.

    Attributes:
        special_tokens: the marks are special tokens, so that the text must show these.
    """

    special_tokens: bool = False

    def __init__(self, init: ReasoningParserInit) -> None:
        self.init = init

    @abstractmethod
    def feed(self, text: str) -> list[Event]:
        """Take the next piece of the text."""

    @abstractmethod
    def finish(self) -> list[Event]:
        """The text has ended. Called once, last."""

    @property
    @abstractmethod
    def inside(self) -> bool:
        """Whether the thinking is open: what was fed last belongs to it."""

    @property
    @abstractmethod
    def end(self) -> str:
        """The text that ends the thinking: what is put in when its budget is spent."""
