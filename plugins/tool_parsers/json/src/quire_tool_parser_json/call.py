"""`CallObject`: one call's JSON object, `{"name": ..., "arguments": {...}}`, read as it comes.

Streams the arguments from the moment that the tool is known. Knows what a call is; knows nothing of the marks
around it. The keys may come in any order; arguments may be left out, and be called `parameters`.
"""

from __future__ import annotations

import json

from quire.contracts import CallArguments, CallBegun, CallEnded, Event
from quire_tool_parser_json.scanner import SPACE, JsonScanner, Scan

_ARGUMENTS = ("arguments", "parameters")
_KEYS = frozenset({"name", "id", "type", *_ARGUMENTS})
_MAX_KEY = 64
_MAX_VALUE = 4096


class CallObject:
    """Reads one call.

    Args:
        names: tools that were offered.
        name: the tool, where it is written before the object, which then is the arguments alone.

    Attributes:
        state: whether the call is complete, or none.
        begun: `CallBegun` was given.
    """

    __slots__ = (
        "_bare",
        "_early",
        "_key",
        "_length",
        "_name",
        "_names",
        "_scanner",
        "_seen",
        "_step",
        "_text",
        "begun",
        "state",
    )

    def __init__(self, names: frozenset[str], name: str | None = None) -> None:
        self.state = Scan.OPEN
        self.begun = False
        self._names = names
        self._name = name
        self._bare = name is not None
        self._step = "arguments" if self._bare else "open"
        self._scanner = JsonScanner()
        self._key = ""
        self._text: list[str] = []  # of the key or value that is being read
        self._length = 0
        self._early: list[str] = []  # arguments that came before the name
        self._seen: set[str] = set()

    def feed(self, text: str, pos: int, events: list[Event]) -> int:
        """Take characters from `pos` on; returns the place of the first that is not the call's."""
        size = len(text)
        while pos < size and self.state is Scan.OPEN:
            if self._step in ("key", "value", "arguments"):
                pos = self._scan(text, pos, events)
                continue
            found = SPACE.match(text, pos)
            pos = pos if found is None else found.end()
            if pos < size:
                pos = self._mark(text[pos], pos, events)
        return pos

    def _mark(self, char: str, pos: int, events: list[Event]) -> int:
        step = self._step
        if step == "open" and char == "{":
            self._step = "first"
        elif step in ("first", "next") and char == '"':
            self._begin("key")
            return pos
        elif step == "colon" and char == ":":
            self._begin("arguments" if self._key in _ARGUMENTS else "value")
        elif step == "comma" and char == ",":
            self._step = "next"
        elif step == "comma" and char == "}":
            return self._close(pos, events)
        else:
            self.state = Scan.FAILED
            return pos
        return pos + 1

    def _begin(self, step: str) -> None:
        self._step = step
        self._scanner = JsonScanner()
        self._text = []
        self._length = 0

    def _scan(self, text: str, pos: int, events: list[Event]) -> int:
        """A key, a value, or the arguments."""
        is_arguments = self._step == "arguments"
        if (
            is_arguments and not self._text
        ):  # the first character decides, and white space is not the object's
            found = SPACE.match(text, pos)
            pos = pos if found is None else found.end()
            if pos == len(text):
                return pos
            if text[pos] != "{" or (self._bare and self._name not in self._names):
                self.state = Scan.FAILED
                return pos
            self._text.append("")
            if self._name is not None:
                self._announce(events)
        end = self._scanner.feed(text, pos)
        piece = text[pos:end]
        if not is_arguments:
            self._text.append(piece)
            self._length += len(piece)
            if self._length > (_MAX_KEY if self._step == "key" else _MAX_VALUE):
                self.state = Scan.FAILED
        elif self._name is None:
            self._early.append(piece)
        elif piece:
            events.append(CallArguments(piece))
        if self._scanner.state is Scan.FAILED:
            self.state = Scan.FAILED
        elif self._scanner.state is Scan.DONE and self.state is Scan.OPEN:
            self._scanned(events)
        return end

    def _scanned(self, events: list[Event]) -> None:
        """A key, a value or the arguments are complete."""
        step, self._step = self._step, "comma"
        if step == "arguments":
            if self._bare:
                events.append(CallEnded())
                self.state = Scan.DONE
            return
        value = json.loads("".join(self._text))
        if step == "key":
            role = "arguments" if value in _ARGUMENTS else value
            if role not in _KEYS or role in self._seen:
                self.state = Scan.FAILED
            self._seen.add(role)
            self._key, self._step = value, "colon"
        elif self._key == "name":
            if not isinstance(value, str) or value not in self._names:
                self.state = Scan.FAILED
                return
            self._name = value
            if self._early:
                self._announce(events)
                events.append(CallArguments("".join(self._early)))

    def _announce(self, events: list[Event]) -> None:
        assert self._name is not None
        self.begun = True
        events.append(CallBegun(self._name))

    def _close(self, pos: int, events: list[Event]) -> int:
        if self._name is None:
            self.state = Scan.FAILED
            return pos
        if "arguments" not in self._seen:
            self._announce(events)
            events.append(CallArguments("{}"))
        events.append(CallEnded())
        self.state = Scan.DONE
        return pos + 1
