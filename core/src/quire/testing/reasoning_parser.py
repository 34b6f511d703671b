"""The reasoning parser contract as a test suite. Subclass it and give it your parser:

class TestMyParser(ReasoningParserSuite):
    opening = "<think>"

    @pytest.fixture
    def parser_class(self) -> type[ReasoningParser]:
        return MyParser
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from quire.contracts import Content, Event, Reasoning, ReasoningParser, ReasoningParserInit
from quire.testing.events import join_events
from quire.testing.tool_parser import cuts

__all__ = ["ReasoningParserSuite"]

_WORDS = ("Hello", " ", "\n\n", "é", "\U0001f600", "<", "</", ">", "think", "answer", "\u00a0")


class ReasoningParserSuite:
    """What every reasoning parser must hold. Override `parser_class` and, where it has options, `init`.

    Attributes:
        opening: the text with which a model opens its thinking.
    """

    opening = "<think>"
    rounds = 500
    """Texts per property."""

    @pytest.fixture
    def parser_class(self) -> type[ReasoningParser]:
        """The class under test."""
        raise NotImplementedError("Override the fixture `parser_class`.")

    @pytest.fixture
    def init(self) -> ReasoningParserInit:
        """What it is constructed with."""
        return ReasoningParserInit(prompt="<|user|>Hello<|assistant|>")

    def test_thinking_is_set_apart(
        self, parser_class: type[ReasoningParser], init: ReasoningParserInit
    ) -> None:
        parser = parser_class(init)
        events = parser.feed(f"{self.opening}\nLet me think.")
        inside = [parser.inside]
        events += parser.feed(f"\n{parser.end}\n\nIt is so.")
        assert [*inside, parser.inside] == [True, False]
        assert join_events([*events, *parser.finish()]) == [Reasoning("Let me think."), Content("It is so.")]

    def test_thinking_that_does_not_end_is_thinking(
        self, parser_class: type[ReasoningParser], init: ReasoningParserInit
    ) -> None:
        assert _read(parser_class(init), [f"{self.opening}No end </"]) == [Reasoning("No end </")]

    def test_marks_in_the_answer_are_content(
        self, parser_class: type[ReasoningParser], init: ReasoningParserInit
    ) -> None:
        end = parser_class(init).end
        answer = f"The marks are {self.opening} and {end}, you know."
        text = f"{self.opening}Hm{end}{answer}"
        assert _read(parser_class(init), [text]) == [Reasoning("Hm"), Content(answer)]

    def test_events_do_not_depend_on_the_cuts(
        self, parser_class: type[ReasoningParser], init: ReasoningParserInit
    ) -> None:
        rng = random.Random(1)
        for _ in range(self.rounds):
            text = self._text(parser_class(init).end, rng)
            whole = _read(parser_class(init), [text])
            assert _read(parser_class(init), text) == whole, text
            assert _read(parser_class(init), cuts(text, rng)) == whole, text

    def test_no_text_is_lost(self, parser_class: type[ReasoningParser], init: ReasoningParserInit) -> None:
        """All but the two marks, and white space."""
        rng = random.Random(2)
        for _ in range(self.rounds):
            end = parser_class(init).end
            text = self._text(end, rng)
            told = "".join(
                event.text
                for event in _read(parser_class(init), cuts(text, rng))
                if isinstance(event, Reasoning | Content)
            )
            bare = "".join(text.split())
            kept = "".join(told.split())
            without = {bare, bare.replace(self.opening, "", 1), bare.replace(end, "", 1)}
            without.add(bare.replace(self.opening, "", 1).replace(end, "", 1))
            assert kept in without, text

    def test_a_flood_takes_linear_time(
        self, parser_class: type[ReasoningParser], init: ReasoningParserInit
    ) -> None:
        end = parser_class(init).end
        for flood in (self.opening, end[:-1], " "):

            def seconds(count: int, flood: str = flood) -> float:
                text = flood * count
                start = time.thread_time()
                _read(parser_class(init), text)
                return time.thread_time() - start

            few = min(seconds(2000) for _ in range(3))
            assert min(seconds(16_000) for _ in range(2)) < 24 * few + 0.2, (
                flood
            )  # 64 times if it were quadratic

    def _text(self, end: str, rng: random.Random) -> str:
        words = (*_WORDS, self.opening, end, self.opening, end)
        return "".join(rng.choice(words) for _ in range(rng.randint(0, 12)))


def _read(parser: ReasoningParser, pieces: Sequence[str]) -> list[Event]:
    events: list[Event] = []
    for piece in pieces:
        events += parser.feed(piece)
    return join_events([*events, *parser.finish()])
