"""Stop strings: the same answer however the text is cut (T40)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.text import StopMatcher

ALPHABET = "ab<"
stops_strategy = st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=4)


def reference(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """First end wins; of those, the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return (text[:end] if include else text[: end - len(stop)]), stop
    return text, None


@settings(deadline=None)
@given(
    text=st.text(ALPHABET, max_size=30),
    stops=stops_strategy,
    include=st.booleans(),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_any_chunks_give_what_the_whole_text_gives(
    text: str, stops: list[str], include: bool, cuts: list[int]
) -> None:
    matcher = StopMatcher(stops, include=include)
    out, found = "", None
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(bounds):
        match = matcher.feed(text[start:end])
        out += match.text
        found = match.stop
    out += matcher.finish()
    assert (out, found) == reference(text, stops, include)
    assert matcher.matched is (found is not None)


@settings(deadline=None)
@given(text=st.text(ALPHABET, max_size=30), stops=stops_strategy)
def test_holds_back_exactly_what_may_be_a_beginning(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    for char in text:
        if matcher.feed(char).stop is not None:
            return
    longest = max(
        (n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])),
        default=0,
    )
    assert matcher.held == text[len(text) - longest :]


def test_a_stop_string_over_three_chunks() -> None:
    matcher = StopMatcher(["</s>"])
    assert matcher.feed("done<").text == "done"
    assert matcher.feed("/s").text == ""
    match = matcher.feed(">more")
    assert (match.text, match.stop) == ("", "</s>")


def test_what_was_held_goes_out_when_it_was_none() -> None:
    matcher = StopMatcher(["[INST]"])
    assert matcher.feed("a [IN").text == "a "
    assert matcher.feed("DEX]").text == "[INDEX]"
    assert matcher.feed(" [I").text == " "
    assert matcher.finish() == "[I"


def test_include_lets_the_stop_string_out_and_nothing_after_it() -> None:
    matcher = StopMatcher(["stop"], include=True)
    assert matcher.feed("a st").text == "a "
    match = matcher.feed("op b")
    assert (match.text, match.stop) == ("stop", "stop")
    assert matcher.feed("c").text == ""
    assert matcher.finish() == ""


@pytest.mark.parametrize(
    ("stops", "expected"),
    [(["abcd", "bc"], "bc"), (["c", "abc"], "abc"), (["x", "d"], "d")],
)
def test_first_end_wins_and_then_the_longest(stops: list[str], expected: str) -> None:
    assert StopMatcher(stops).feed("abcd").stop == expected


def test_no_stop_strings_hold_nothing() -> None:
    assert StopMatcher([]).feed("anything").text == "anything"
