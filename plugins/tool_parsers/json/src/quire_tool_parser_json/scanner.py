"""`JsonScanner`: tells where one JSON value ends, or where it stops being JSON, as its text comes.

RFC 8259, with two bounds: nesting, and the length of a number, which Python's own reader bounds too. Keeps
a state and a stack; never the text.
"""

from __future__ import annotations

import enum
import re

MAX_DEPTH = 200
MAX_NUMBER = 1000

SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_DIGITS = frozenset("0123456789")
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = frozenset('"\\/bfnrt')
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_CLOSES = {"{": "}", "[": "]"}

# Per state of a number: what may follow, and the state after it.
_NUMBER: dict[str, dict[str, str]] = {
    "minus": {"0": "zero", "digit": "whole"},
    "zero": {".": "point", "e": "e"},
    "whole": {"0": "whole", "digit": "whole", ".": "point", "e": "e"},
    "point": {"0": "fraction", "digit": "fraction"},
    "fraction": {"0": "fraction", "digit": "fraction", "e": "e"},
    "e": {"0": "exponent", "digit": "exponent", "sign": "sign"},
    "sign": {"0": "exponent", "digit": "exponent"},
    "exponent": {"0": "exponent", "digit": "exponent"},
}
_WHOLE_NUMBERS = frozenset({"zero", "whole", "fraction", "exponent"})


class Scan(enum.Enum):
    """Where a value stands."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"


class JsonScanner:
    """Scans one value. White space before it is part of it; behind it, not.

    Attributes:
        state: whether the value is complete, or none.
    """

    __slots__ = ("_expect", "_left", "_number", "_stack", "_word", "state")

    def __init__(self) -> None:
        self.state = Scan.OPEN
        self._stack: list[str] = []
        self._expect = "value"
        self._number = ""
        self._word = ""
        self._left = 0

    def feed(self, text: str, pos: int) -> int:
        """Take characters from `pos` on.

        Returns:
            The place behind the last one that belongs to the value; the first that does not is left.
        """
        size = len(text)
        while pos < size and self.state is Scan.OPEN:
            expect = self._expect
            if expect == "string":
                pos = _end(_PLAIN, text, pos)
                if pos == size:
                    break
                pos = self._in_string(text[pos], pos)
            elif expect == "escape":
                pos = self._escape(text[pos], pos)
            elif expect == "hex":
                pos = self._hex(text[pos], pos)
            elif expect == "number":
                pos = self._in_number(text[pos], pos)
            elif expect == "word":
                pos = self._in_word(text[pos], pos)
            else:
                pos = _end(SPACE, text, pos)
                if pos < size:
                    pos = self._structure(text[pos], pos)
        return pos

    def _structure(self, char: str, pos: int) -> int:
        expect = self._expect
        if char in _CLOSES.values() and self._closes(char):
            self._stack.pop()
            self._value_ends()
        elif expect == "colon" and char == ":":
            self._expect = "value"
        elif expect == "comma" and char == ",":
            self._expect = "key" if self._stack[-1] == "{" else "value"
        elif expect in ("key", "first key") and char == '"':
            self._begin_string("key")
        elif expect in ("value", "first value"):
            return self._begin_value(char, pos)
        else:
            self.state = Scan.FAILED
            return pos
        return pos + 1

    def _closes(self, char: str) -> bool:
        """Whether this closing bracket may stand here."""
        if not self._stack or _CLOSES[self._stack[-1]] != char:
            return False
        return self._expect == "comma" or self._expect == ("first key" if char == "}" else "first value")

    def _begin_value(self, char: str, pos: int) -> int:
        if char in _CLOSES:
            if len(self._stack) >= MAX_DEPTH:
                self.state = Scan.FAILED
                return pos
            self._stack.append(char)
            self._expect = "first key" if char == "{" else "first value"
        elif char == '"':
            self._begin_string("value")
        elif char == "-" or char in _DIGITS:
            self._number = "minus" if char == "-" else "zero" if char == "0" else "whole"
            self._expect, self._left = "number", MAX_NUMBER
        elif char in _LITERALS:
            self._expect, self._word = "word", _LITERALS[char][1:]
        else:
            self.state = Scan.FAILED
            return pos
        return pos + 1

    def _begin_string(self, role: str) -> None:
        self._expect, self._word = "string", role

    def _in_string(self, char: str, pos: int) -> int:
        if char == '"':
            if self._word == "key":
                self._expect = "colon"
            else:
                self._value_ends()
        elif char == "\\":
            self._expect = "escape"
        else:
            self.state = Scan.FAILED
            return pos
        return pos + 1

    def _escape(self, char: str, pos: int) -> int:
        if char in _ESCAPES:
            self._expect = "string"
        elif char == "u":
            self._expect, self._left = "hex", 4
        else:
            self.state = Scan.FAILED
            return pos
        return pos + 1

    def _hex(self, char: str, pos: int) -> int:
        if char not in _HEX:
            self.state = Scan.FAILED
            return pos
        self._left -= 1
        if not self._left:
            self._expect = "string"
        return pos + 1

    def _in_number(self, char: str, pos: int) -> int:
        kind = char if char in "0." else "digit" if char in _DIGITS else _NUMBER_SIGNS.get(char, "")
        following = _NUMBER[self._number].get(kind)
        if following is not None and self._left:
            self._number = following
            self._left -= 1
            return pos + 1
        if following is not None or self._number not in _WHOLE_NUMBERS:
            self.state = Scan.FAILED
        else:
            self._value_ends()
        return pos

    def _in_word(self, char: str, pos: int) -> int:
        if char != self._word[0]:
            self.state = Scan.FAILED
            return pos
        self._word = self._word[1:]
        if not self._word:
            self._value_ends()
        return pos + 1

    def _value_ends(self) -> None:
        if self._stack:
            self._expect = "comma"
        else:
            self.state = Scan.DONE


_NUMBER_SIGNS = {"e": "e", "E": "e", "+": "sign", "-": "sign"}


def _end(pattern: re.Pattern[str], text: str, pos: int) -> int:
    """Where a run of a pattern that matches anything, nothing included, ends."""
    found = pattern.match(text, pos)
    assert found is not None
    return found.end()
