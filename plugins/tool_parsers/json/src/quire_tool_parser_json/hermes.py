"""`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, once per call: Hermes, Qwen 2.5 and 3."""

from __future__ import annotations

import json
from collections.abc import Sequence

from quire.contracts import CallForm, CallsForm, Event, Tool, ToolParserInit
from quire_tool_parser_json.reader import CallReader

_CLOSING = "</tool_call>"


class HermesParser(CallReader):
    """Calls in tags. Several objects in one pair of tags are several calls; a missing end tag is no fault."""

    opening = "<tool_call>"

    def __init__(self, init: ToolParserInit) -> None:
        super().__init__(init)
        self._closed = 0  # characters of the end tag so far

    def _between(self, text: str, pos: int, events: list[Event]) -> int:
        if not self._closed:
            pos = self._space_in(text, pos)
            if pos == len(text):
                return pos
            if text[pos] == "{":
                self._begin_call()
                return pos
        if not self._calls or text[pos] != _CLOSING[self._closed]:
            self._closed = 0
            self._break(events)
            return pos
        self._closed += 1
        if self._closed == len(_CLOSING):
            self._closed = 0
            self._leave()
            return pos + 1
        return self._take(text, pos, pos + 1)

    @classmethod
    def form(cls, tools: Sequence[Tool]) -> CallsForm:
        """A pair of tags per call, a line each, as templates of this family write them."""
        return CallsForm(
            calls=tuple(
                CallForm(
                    name=tool.name,
                    begin=f'<tool_call>\n{{"name": {json.dumps(tool.name)}, "arguments": ',
                    schema=tool.parameters,
                    end="}\n</tool_call>",
                )
                for tool in tools
            ),
            separator="\n",
            trigger=cls.opening,
        )
