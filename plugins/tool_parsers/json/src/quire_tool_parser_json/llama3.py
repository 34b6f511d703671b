"""`{"name": ..., "parameters": {...}}` as the whole answer, several with `;` between: Llama 3.1 and later.

Behind `<|python_tag|>`, which may stand before all of them or before each, the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from quire.contracts import CallForm, CallsForm, Event, Tool, ToolParserInit
from quire_tool_parser_json.reader import CallReader
from quire_tool_parser_json.scanner import SPACE


class Llama3Parser(CallReader):
    """Calls that begin the answer, with or without `<|python_tag|>`, or that follow this mark later on."""

    opening = "<|python_tag|>"
    special_tokens = True

    def __init__(self, init: ToolParserInit) -> None:
        super().__init__(init)
        self._at_start = True
        self._parted = False  # a semicolon has come since the last call

    def _outside(self, text: str, pos: int, events: list[Event]) -> int:
        if self._at_start:
            found = SPACE.match(text, pos)
            assert found is not None
            if found.end() > pos:
                self._space.append(text[pos : found.end()])
                return found.end()
            self._at_start = False
            if text[pos] == "{":
                self._begin_block("")
                return pos
        return super()._outside(text, pos, events)

    def _between(self, text: str, pos: int, events: list[Event]) -> int:
        pos = self._space_in(text, pos)
        if pos == len(text):
            return pos
        if text[pos] == "{":
            self._parted = False
            self._begin_call()
            return pos
        if text[pos] == ";" and self._calls and not self._parted:
            self._parted = True
            return self._take(text, pos, pos + 1)
        self._break(events)
        return pos

    def _break(self, events: list[Event]) -> None:
        self._parted = False
        if self._call is None and self._may_end():  # before another mark it is a separator, and else content
            self._space += self._raw
            self._leave()
        else:
            super()._break(events)

    def _may_end(self) -> bool:
        return self._calls > 0 and "".join(self._raw).strip() in ("", ";")

    @classmethod
    def form(cls, tools: Sequence[Tool]) -> CallsForm:
        """Objects with `; ` between them. An answer that begins with a brace begins with a call."""
        return CallsForm(
            calls=tuple(
                CallForm(
                    name=tool.name,
                    begin=f'{{"name": {json.dumps(tool.name)}, "parameters": ',
                    schema=tool.parameters,
                    end="}",
                )
                for tool in tools
            ),
            separator="; ",
            trigger=cls.opening,
            start="{",
        )
