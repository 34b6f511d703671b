"""The tool parser contract as a test suite. Subclass it and give it your parser:

    class TestMyParser(ToolParserSuite):
        @pytest.fixture
        def parser_class(self) -> type[ToolParser]:
            return MyParser

Texts are made from the parser's own `form`, well-formed and torn, at fixed seeds.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from quire.contracts import (
    CallArguments,
    CallBegun,
    CallBroken,
    CallEnded,
    CallForm,
    Content,
    Event,
    Tool,
    ToolParser,
    ToolParserInit,
)
from quire.testing.events import join_events

__all__ = ["TOOLS", "ToolParserSuite", "cuts", "json_object"]

TOOLS = (
    Tool(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool(name="add-2.x", parameters={"type": "object"}),
    Tool(name="f", parameters={"type": "object"}),
)
_WORDS = (
    "Hello",
    " ",
    "\n",
    "é",
    "\U0001f600",
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    ",",
    ";",
    ":",
    "1",
    "-",
    "<",
    "null",
    "name",
)
_STRINGS = (
    "",
    "Zürich",
    'with "quotes" and \\',
    "</tool_call>",
    "[TOOL_CALLS]",
    "<think>",
    "\n\t",
    "\u2028",
    "}",
)


class ToolParserSuite:
    """What every tool parser must hold. Override `parser_class`, and `init` if it has options."""

    rounds = 300
    """Texts per property."""

    @pytest.fixture
    def parser_class(self) -> type[ToolParser]:
        """The class under test."""
        raise NotImplementedError("Override the fixture `parser_class`.")

    @pytest.fixture
    def init(self) -> ToolParserInit:
        """What it is constructed with."""
        return ToolParserInit(names=frozenset(tool.name for tool in TOOLS))

    # What is a call

    def test_a_call_in_its_form_is_a_call(self, parser_class: type[ToolParser], init: ToolParserInit) -> None:
        rng = random.Random(1)
        for _ in range(self.rounds):
            texts = [json_object(rng)]
            text, expected = _written(parser_class, texts, rng)
            assert _read(parser_class(init), [text]) == expected, text

    def test_several_calls_are_several(self, parser_class: type[ToolParser], init: ToolParserInit) -> None:
        if parser_class.form(TOOLS).separator is None:
            pytest.skip("this form has room for one call")
        rng = random.Random(2)
        for _ in range(self.rounds):
            texts = [json_object(rng) for _ in range(rng.randint(2, 4))]
            text, expected = _written(parser_class, texts, rng)
            assert _read(parser_class(init), cuts(text, rng)) == expected, text

    def test_a_form_holds_its_schema(self, parser_class: type[ToolParser]) -> None:
        form = parser_class.form(TOOLS)
        assert [(one.name, one.schema) for one in form.calls] == [(one.name, one.parameters) for one in TOOLS]

    # What is none

    def test_text_without_calls_is_content(
        self, parser_class: type[ToolParser], init: ToolParserInit
    ) -> None:
        for text in (
            "Hello, world.\n",
            "",
            "  ",
            "1 < 2 and {a} [b]",
            '{"city": "Rome"}',
            '[1, 2, {"a": 3}]',
        ):
            assert _read(parser_class(init), [text]) == ([Content(text)] if text else [])

    def test_a_call_of_another_tool_is_content(
        self, parser_class: type[ToolParser], init: ToolParserInit
    ) -> None:
        form = parser_class.form([Tool(name="unknown")])
        text = f"{form.begin}{form.calls[0].begin}{{}}{form.calls[0].end}{form.end}"
        assert _read(parser_class(init), [text]) == [Content(text)]

    @pytest.mark.parametrize(
        "arguments",
        [
            '{"a": }',
            '{"a" 1}',
            "{'a': 1}",
            '{"a": 01}',
            '{"a": 1,}',
            '{"a": NaN}',
            '{"a": "\n"}',
            '{"a": [1}',
            "[1]",
            "7",
        ],
    )
    def test_malformed_arguments_are_given_back(
        self, parser_class: type[ToolParser], init: ToolParserInit, arguments: str
    ) -> None:
        form = parser_class.form(TOOLS)
        text = f"{form.begin}{form.calls[0].begin}{arguments}{form.calls[0].end}{form.end}"
        events = _read(parser_class(init), [text])
        assert not any(isinstance(event, CallEnded) for event in events)
        assert _given_back(events) == text

    def test_a_text_that_ends_in_a_call_is_given_back(
        self, parser_class: type[ToolParser], init: ToolParserInit
    ) -> None:
        form = parser_class.form(TOOLS)
        text = f'{form.begin}{form.calls[0].begin}{{"city": "Rome"}}'
        for size in range(1, len(text)):
            events = _read(parser_class(init), [text[:size]])
            assert _given_back(events) == text[:size]

    # Whatever the text

    def test_events_do_not_depend_on_the_cuts(
        self, parser_class: type[ToolParser], init: ToolParserInit
    ) -> None:
        rng = random.Random(3)
        for text in _torn(parser_class, rng, self.rounds):
            whole = _read(parser_class(init), [text])
            assert _read(parser_class(init), text) == whole, text
            assert _read(parser_class(init), cuts(text, rng)) == whole, text

    def test_no_text_is_lost(self, parser_class: type[ToolParser], init: ToolParserInit) -> None:
        rng = random.Random(4)
        for text in _torn(parser_class, rng, self.rounds):
            events = _read(parser_class(init), [text])
            if not any(isinstance(event, CallEnded) for event in events):
                assert _given_back(events) == text
            place = 0
            for piece in _pieces(events):
                found = text.find(piece.strip(), place)
                assert found >= 0, (text, piece)
                place = found + len(piece.strip())

    def test_calls_are_sound(self, parser_class: type[ToolParser], init: ToolParserInit) -> None:
        """Begun with an offered name, then arguments, then an end; a JSON object if the call has ended."""
        rng = random.Random(5)
        for text in _torn(parser_class, rng, self.rounds):
            arguments: list[str] | None = None
            for event in _read(parser_class(init), cuts(text, rng)):
                match event:
                    case CallBegun(name):
                        assert arguments is None
                        assert name in init.names
                        arguments = []
                    case CallArguments(piece):
                        assert arguments is not None
                        arguments.append(piece)
                    case CallEnded() | CallBroken():
                        assert arguments is not None
                        if isinstance(event, CallEnded):
                            assert isinstance(json.loads("".join(arguments)), dict)
                        arguments = None
                    case _:
                        assert arguments is None
            assert arguments is None

    def test_arguments_are_streamed(self, parser_class: type[ToolParser], init: ToolParserInit) -> None:
        """Half of a call's text gives about half of its arguments, not none."""
        form = parser_class.form(TOOLS)
        parser = parser_class(init)
        parser.feed(f'{form.begin}{form.calls[0].begin}{{"city": "')
        assert parser.feed("Rome") == [CallArguments("Rome")]

    def test_a_flood_takes_linear_time(self, parser_class: type[ToolParser], init: ToolParserInit) -> None:
        form = parser_class.form(TOOLS)
        call = form.calls[0]
        for flood in (
            form.trigger or "{",
            form.begin + call.begin,
            f"{form.begin}{call.begin}{{",
            call.begin + "[" * 50,
        ):

            def seconds(count: int, flood: str = flood) -> float:
                text = flood * count
                start = time.thread_time()
                _read(parser_class(init), [text])
                return time.thread_time() - start

            few = min(seconds(3000) for _ in range(3))
            assert min(seconds(24_000) for _ in range(2)) < 24 * few + 0.2, (
                flood
            )  # 64 times if it were quadratic

    def test_ids_differ(self, parser_class: type[ToolParser]) -> None:
        assert len({parser_class.draw_id() for _ in range(100)}) == 100


def cuts(text: str, rng: random.Random) -> list[str]:
    """A text in pieces of random lengths, empty ones among them."""
    places = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, len(text) // 3 + 2)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def json_object(rng: random.Random) -> str:
    """A JSON object of any sort, spaced in any way."""
    value = {rng.choice(_STRINGS) + str(index): _value(rng, 2) for index in range(rng.randint(0, 3))}
    spaces = rng.choice([None, (",", ":"), (" , ", "\n: ")])
    return json.dumps(value, ensure_ascii=rng.random() < 0.5, separators=spaces)


def _value(rng: random.Random, depth: int) -> Any:
    kind = rng.randint(0, 6 if depth else 4)
    if kind == 5:
        return [_value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    if kind == 6:
        return {rng.choice(_STRINGS): _value(rng, depth - 1) for _ in range(rng.randint(0, 3))}
    return [rng.choice(_STRINGS), rng.randint(-99, 10**20), rng.uniform(-1e9, 1e-9), None, True][kind]


def _written(
    parser_class: type[ToolParser], arguments: Sequence[str], rng: random.Random
) -> tuple[str, list[Event]]:
    """An answer of calls with these arguments, and the events it stands for."""
    form = parser_class.form(TOOLS)
    texts: list[str] = []
    events: list[Event] = []
    for one in arguments:
        call: CallForm = rng.choice(form.calls)
        texts.append(f"{call.begin}{one}{call.end}")
        events += [CallBegun(call.name), CallArguments(one), CallEnded()]
    return form.begin + (form.separator or "").join(texts) + form.end, events


def _torn(parser_class: type[ToolParser], rng: random.Random, count: int) -> Iterator[str]:
    """Texts in and near the form: whole calls, marks, halves of them, JSON and words in any order."""
    form = parser_class.form(TOOLS)
    marks = [form.begin, form.end, form.trigger or "", form.separator or ""]
    marks += [part for call in form.calls for part in (call.begin, call.end)]
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 8)):
            kind = rng.random()
            if kind < 0.4:
                part = _written(parser_class, [json_object(rng) for _ in range(rng.randint(1, 2))], rng)[0]
            elif kind < 0.6:
                part = rng.choice(marks)
            elif kind < 0.8:
                part = json_object(rng)
            else:
                part = "".join(rng.choice(_WORDS) for _ in range(rng.randint(1, 5)))
            if rng.random() < 0.2:
                part = part[: rng.randint(0, len(part))]
            parts.append(part)
        yield "".join(parts)


def _read(parser: ToolParser, pieces: Sequence[str]) -> list[Event]:
    events: list[Event] = []
    for piece in pieces:
        events += parser.feed(piece)
    return join_events([*events, *parser.finish()])


def _given_back(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content | CallBroken))


def _pieces(events: Sequence[Event]) -> Iterator[str]:
    """The texts that must stand in the original in this order. Those of a broken call are in its own text."""
    pending: list[str] = []
    for event in events:
        if isinstance(event, CallArguments):
            pending.append(event.text)
        elif isinstance(event, CallEnded):
            # Arguments that were left out are an empty object.
            yield from (text for text in pending if text != "{}")
            pending = []
        elif isinstance(event, CallBroken):
            pending = []
            yield event.text
        elif isinstance(event, Content):
            yield event.text
