"""`[TOOL_CALLS]` and a list of `{"name": ..., "arguments": {...}}`, or a name and its arguments: Mistral.

The list is the form up to the third version of Mistral's tokenizers. From the eleventh on it is
`[TOOL_CALLS]name[ARGS]{...}` for each call, with `[CALL_ID]id` after the name in between.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Sequence

from quire.contracts import CallForm, CallsForm, Event, Tool, ToolParserInit
from quire_tool_parser_json.reader import CallReader
from quire_tool_parser_json.scanner import SPACE

_MARKS = ("[CALL_ID]", "[ARGS]")
_MAX_NAME = 256
_ID_CHARS = string.ascii_letters + string.digits


class MistralParser(CallReader):
    """Calls behind the mark; an answer that begins with a list of calls may leave the mark out."""

    opening = "[TOOL_CALLS]"
    special_tokens = True

    def __init__(self, init: ToolParserInit) -> None:
        super().__init__(init)
        self._at_start = True
        self._name = ""  # in the second form
        self._part = ""  # of a mark behind the name
        self._expect = "head"

    def _outside(self, text: str, pos: int, events: list[Event]) -> int:
        if self._at_start:
            if not self._mark:
                found = SPACE.match(text, pos)
                assert found is not None
                if found.end() > pos:
                    self._space.append(text[pos : found.end()])
                    return found.end()
                if text[pos] == "[":  # the next character tells a list of objects from the mark and from text
                    self._mark = "["
                    return pos + 1
            self._at_start = False
            if self._mark and text[pos] == "{":
                self._begin_block("[")
                self._expect = "object"
                return pos
        end = super()._outside(text, pos, events)
        if self._in_block:
            self._expect, self._name, self._part = "head", "", ""
        return end

    def _between(self, text: str, pos: int, events: list[Event]) -> int:
        if self._expect not in ("name", "part", "id"):
            pos = self._space_in(text, pos)
        if pos == len(text):
            return pos
        char = text[pos]
        if char == "{" and self._expect != "comma":
            return self._begin(pos, events)
        expect = self._following(char)
        if expect is None:
            self._break(events)
            return pos
        self._expect = expect
        pos = self._take(text, pos, pos + 1)
        if expect == "end":
            self._leave()
        return pos

    def _begin(self, pos: int, events: list[Event]) -> int:
        """A brace: an object of the list, or the arguments of the tool that was named."""
        if self._expect in ("list", "object"):
            self._expect = "comma"
            self._begin_call()
        elif self._name in self.names and self._expect != "part":
            self._expect = "single"
            self._begin_call(self._name)
        else:
            self._break(events)
        return pos

    def _following(self, char: str) -> str | None:
        """What is expected behind a character that is neither white space nor a brace; None: it is wrong."""
        expect = self._expect
        if expect == "comma":
            return {",": "object", "]": "end"}.get(char)
        if expect == "head" and char == "[":
            return "list"
        if expect in ("head", "name") and (char.isalnum() or char in "_.-") and len(self._name) < _MAX_NAME:
            self._name += char
            return "name"
        if expect == "name" and char.isspace():
            return "named"
        if expect == "id" and (char.isalnum() or char.isspace()):
            return "id"
        if expect in ("name", "named", "id") and char == "[":
            self._part = char
            return "part"
        if expect == "part":
            self._part += char
            if self._part in _MARKS:
                return "id" if self._part == _MARKS[0] else "arguments"
            return "part" if any(mark.startswith(self._part) for mark in _MARKS) else None
        return None

    def _call_ended(self) -> None:
        if self._expect == "single":
            self._leave()

    @staticmethod
    def draw_id() -> str:
        """Nine letters and digits: Mistral's templates refuse anything else."""
        return "".join(secrets.choice(_ID_CHARS) for _ in range(9))

    @classmethod
    def form(cls, tools: Sequence[Tool]) -> CallsForm:
        """A list. Forced without the mark, a special token of these models that no grammar can write."""
        return CallsForm(
            calls=tuple(
                CallForm(
                    name=tool.name,
                    begin=f'{{"name": {json.dumps(tool.name)}, "arguments": ',
                    schema=tool.parameters,
                    end="}",
                )
                for tool in tools
            ),
            begin="[",
            end="]",
            separator=", ",
            trigger=cls.opening,
            start="[{",
        )
