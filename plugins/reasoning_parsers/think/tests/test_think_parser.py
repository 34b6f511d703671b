"""Where thinking begins: with the template, with the model, or with the first word."""

from __future__ import annotations

import pytest

from quire.contracts import Content, Event, Reasoning, ReasoningParser, ReasoningParserInit
from quire.testing.events import join_events
from quire_reasoning_parser_think.parser import OpenThinkParser, ThinkParser

PLAIN = "<|user|>Is <think> a tag?<|assistant|>"
OPENED = PLAIN + "<think>\n"
CLOSED = PLAIN + "<think>\n\n</think>\n\n"


def read(
    parser_class: type[ReasoningParser], prompt: str, text: str, continued: str | None = None
) -> list[Event]:
    parser = parser_class(ReasoningParserInit(prompt=prompt, continued=continued))
    events = [event for char in text for event in parser.feed(char)]
    return join_events([*events, *parser.finish()])


BOTH = [Reasoning("Hm."), Content("Yes.")]


@pytest.mark.parametrize(
    ("parser_class", "prompt", "text", "events"),
    [
        (ThinkParser, PLAIN, "<think>Hm.</think>Yes.", BOTH),
        (ThinkParser, PLAIN, "\n<think>\nHm.\n</think>\n\nYes.", BOTH),
        (ThinkParser, PLAIN, "Hm.</think>Yes.", [Content("Hm.</think>Yes.")]),
        (ThinkParser, PLAIN, " Yes.", [Content(" Yes.")]),
        (ThinkParser, OPENED, "Hm.</think>Yes.", BOTH),
        (ThinkParser, CLOSED, "Yes. <think>", [Content("Yes. <think>")]),
        (OpenThinkParser, PLAIN, "Hm.</think>Yes.", BOTH),
        (OpenThinkParser, PLAIN, "<think>Hm.</think>Yes.", BOTH),
        (OpenThinkParser, CLOSED, "Yes.", [Content("Yes.")]),
        (OpenThinkParser, PLAIN, " <thi", [Reasoning("<thi")]),
        (ThinkParser, PLAIN, " <thi", [Content(" <thi")]),
    ],
)
def test_where_thinking_begins(
    parser_class: type[ReasoningParser], prompt: str, text: str, events: list[Event]
) -> None:
    assert read(parser_class, prompt, text) == events


@pytest.mark.parametrize(
    ("continued", "events"),
    [
        ("<think>Well", BOTH),
        ("<think>Well</think>I say", [Content("Hm.</think>Yes.")]),
        ("I say", [Content("Hm.</think>Yes.")]),
    ],
)
def test_an_answer_that_goes_on(continued: str, events: list[Event]) -> None:
    assert read(ThinkParser, PLAIN + continued, "Hm.</think>Yes.", continued) == events


def test_thinking_is_open_from_the_start_where_it_is() -> None:
    for parser_class, prompt, inside in (
        (ThinkParser, PLAIN, False),
        (ThinkParser, OPENED, True),
        (OpenThinkParser, PLAIN, True),
        (OpenThinkParser, CLOSED, False),
    ):
        assert parser_class(ReasoningParserInit(prompt=prompt)).inside is inside
