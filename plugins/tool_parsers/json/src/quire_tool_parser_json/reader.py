"""`CallReader`: what the three forms share. Content up to an opening mark, then calls, then content again.

A form says what stands between the opening, the calls and the end (`_between`); the rest is here: content and
the white space in it, marks that come in pieces, calls that turn out to be none.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from quire.contracts import CallBroken, Content, Event, ToolParser, ToolParserInit
from quire_tool_parser_json.call import CallObject
from quire_tool_parser_json.scanner import SPACE, Scan


class CallReader(ToolParser):
    """A tool parser for calls behind an opening mark.

    White space next to calls is theirs and no content. When calls break off, all text since the last complete
    one is content; what follows is read on from there, and nothing is read twice.

    Attributes:
        opening: the mark.
    """

    opening: ClassVar[str]

    def __init__(self, init: ToolParserInit) -> None:
        super().__init__(init)
        self._call: CallObject | None = None
        self._in_block = False
        self._mark = ""  # the beginning of an opening, held back
        self._space: list[str] = []  # white space that is content only if content follows
        self._raw: list[str] = []  # of the block, since the last complete call
        self._calls = 0  # in this block
        self._after_call = False

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of the text."""
        events: list[Event] = []
        pos = 0
        while pos < len(text):
            if not self._in_block:
                pos = self._outside(text, pos, events)
            elif self._call is None:
                pos = self._between(text, pos, events)
            else:
                pos = self._inside(self._call, text, pos, events)
        return events

    def finish(self) -> list[Event]:
        """The text has ended."""
        events: list[Event] = []
        if self._in_block:
            if self._call is None and self._may_end():
                self._leave()
            else:
                self._break(events)
        self._content(self._mark, events)
        if self._space and not self._after_call:
            events.append(Content("".join(self._space)))
        return events

    @abstractmethod
    def _between(self, text: str, pos: int, events: list[Event]) -> int:
        """Read what is in a block and in no call; returns the place of the first character that is left.

        To end with `_take`, `_begin_call`, `_leave` or `_break`.
        """

    def _may_end(self) -> bool:
        """Whether the text may end where it is between calls."""
        return self._calls > 0 and not "".join(self._raw).strip()

    # For the forms

    def _space_in(self, text: str, pos: int) -> int:
        """Take white space; the place behind it."""
        found = SPACE.match(text, pos)
        assert found is not None
        return self._take(text, pos, found.end())

    def _take(self, text: str, pos: int, end: int) -> int:
        """Take characters of the block."""
        if end > pos:
            self._raw.append(text[pos:end])
        return end

    def _begin_block(self, mark: str | None = None) -> None:
        """What follows is in a block; `mark` is what has opened it, the opening if None."""
        self._in_block = True
        self._calls = 0
        self._raw = [*self._space, self.opening if mark is None else mark]
        self._mark, self._space = "", []

    def _begin_call(self, name: str | None = None) -> None:
        """A call's object begins at the next character."""
        self._call = CallObject(self.names, name)

    def _leave(self) -> None:
        """The block has ended as it should."""
        self._in_block = False
        self._raw = []

    def _break(self, events: list[Event]) -> None:
        """The block goes on as no block does: its text since the last complete call is content."""
        text = "".join(self._raw)
        if self._call is not None and self._call.begun:
            events.append(CallBroken(text))
            self._after_call = False
        else:
            self._content(text, events)
        self._call = None
        self._leave()

    # Between the forms' own

    def _outside(self, text: str, pos: int, events: list[Event]) -> int:
        """Content, and the search for the opening. No character is looked at more than a few times."""
        size = len(self.opening)
        if held := len(self._mark):
            window = self._mark + text[pos : pos + size - 1]
            found = window.find(self.opening)
            if found < 0 and len(text) - pos < size - 1:
                return self._hold(window, text, events)
            if found < 0:
                self._content(self._mark, events)
                self._mark = ""
                return pos
            self._content(window[:found], events)
            self._begin_block()
            return pos + found + size - held
        found = text.find(self.opening, pos)
        if found < 0:
            return self._hold(text[pos:], text, events)
        self._content(text[pos:found], events)
        self._begin_block()
        return found + size

    def _hold(self, rest: str, text: str, events: list[Event]) -> int:
        """Give the rest of a piece, but for what may be the beginning of a mark."""
        cut = len(rest) - _overlap(rest, self.opening)
        self._content(rest[:cut], events)
        self._mark = rest[cut:]
        return len(text)

    def _content(self, text: str, events: list[Event]) -> None:
        """Give text; white space at its end waits for what follows."""
        body = text.rstrip()
        if body:
            events.append(Content("".join(self._space) + body))
            self._space = []
            self._after_call = False
        if len(body) < len(text):
            self._space.append(text[len(body) :])

    def _inside(self, call: CallObject, text: str, pos: int, events: list[Event]) -> int:
        end = self._take(text, pos, call.feed(text, pos, events))
        if call.state is Scan.FAILED:
            self._break(events)
        elif call.state is Scan.DONE:
            self._call = None
            self._calls += 1
            self._after_call = True
            self._raw = []
            self._call_ended()
        return end

    def _call_ended(self) -> None:
        """A call is complete. Nothing to do, but for forms that know more of what follows."""


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` are a beginning of `mark`, but not all of it."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0
