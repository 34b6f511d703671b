"""How a dialect's clients ask for calls of tools, and put an answer together, whole or streamed.

`ToolSuite` and others compare what was answered in one form, `Reply`. Knows no engine.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from quire.contracts import Tool

__all__ = ["Asked", "Reply", "ToolDialect", "sse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A chat with tools, in no dialect.

    Attributes:
        tools: that are offered.
        choice: whether they may, or must, be called.
        named: the one that must be called, with the choice "required".
        parallel: several calls are wanted.
        n: answers; of dialects that have one only, 1.
        logprobs: ask for log probabilities, where the dialect has them.
        max_tokens, temperature, seed: of the request; the seed where the dialect has one.
    """

    tools: Sequence[Tool]
    choice: Literal["none", "auto", "required"] = "auto"
    named: str | None = None
    parallel: bool = True
    n: int = 1
    logprobs: bool = False
    max_tokens: int = 400
    temperature: float = 0.0
    seed: int = 0


@dataclass(slots=True)
class Reply:
    """An answer.

    Attributes:
        content, reasoning: texts.
        calls: names and arguments, as objects.
        ended: why, in the dialect's word.
        tokens: texts of the tokens that log probabilities were told of.
        pieces: in how many pieces arguments came; not compared.
    """

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    ended: str | None = None
    tokens: list[str] = field(default_factory=list)
    pieces: int = field(default=0, compare=False)


class ToolDialect(ABC):
    """A dialect.

    Attributes:
        path: where it is spoken.
        has_n: an answer may have several choices.
        streams_arguments: arguments come while they are written.
        called, cut: `Reply.ended` of an answer that ends with calls, and of one that the limit has cut.
    """

    path: str
    has_n = False
    streams_arguments = True
    called: str
    cut: str

    @abstractmethod
    def body(self, asked: Asked) -> dict[str, Any]:
        """A request for a whole answer."""

    def streaming(self, asked: Asked) -> dict[str, Any]:
        """A request for a stream."""
        return {**self.body(asked), "stream": True}

    @abstractmethod
    def whole(self, answer: Any) -> list[Reply]:
        """The replies in a whole answer's JSON, one for each choice."""

    @abstractmethod
    def streamed(self, text: str) -> list[Reply]:
        """The same from the text of a stream, put together as clients do."""


def sse(text: str) -> list[Any]:
    """The JSON of server-sent events."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
