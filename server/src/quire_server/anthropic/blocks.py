"""`Blocks`: an answer's blocks of thinking, text and uses of tools, and the events that make them up.

Knows Anthropic's forms of blocks. Knows no message around them and no HTTP.
"""

from __future__ import annotations

import json
from typing import Any

from quire import CompletionOutput
from quire.contracts import CallArguments, CallBegun, CallBroken, CallEnded, Content, Event, Reasoning
from quire_server.service import AnswerParser

Told = tuple[str, dict[str, Any]]
"""An event: its type and its fields."""


class Blocks:
    """Takes a completion's deltas.

    A use of a tool that turns out to be none stands in a stream as far as it had come, and its text follows;
    `content` has its text alone.
    """

    def __init__(self, parser: AnswerParser) -> None:
        self._parser = parser
        self._content: list[dict[str, Any]] = []
        self._pieces: list[str] = []  # of the last block's text or input
        self._open: str | None = None
        self._index = -1

    @property
    def called(self) -> bool:
        """Whether a tool is used."""
        return self._parser.called

    def take(self, one: CompletionOutput) -> list[Told]:
        """Events of what is new."""
        events = self._parser.feed(one.text, len(one.token_ids))
        if one.finish_reason is not None:
            events += self._parser.finish()
        return [told for event in events for told in self._tell(event)]

    def begin_text(self) -> dict[str, Any]:
        """Begin a block of text at once; the fields of its start."""
        return self._begin("text", {"type": "text", "text": ""})[-1][1]

    def end(self) -> list[Told]:
        """Close the last block; one of nothing, if there is none."""
        if self._index < 0:
            return [*self._begin("text", {"type": "text", "text": ""}), *self._close()]
        return self._close()

    def content(self) -> list[dict[str, Any]]:
        """The blocks, once all has come."""
        self._close()
        return [block for block in self._content if block["type"] != "text" or block["text"]]

    def _tell(self, event: Event) -> list[Told]:
        match event:
            case Content(text):
                return self._more("text", {"type": "text", "text": ""}, text)
            case Reasoning(text):
                return self._more("thinking", {"type": "thinking", "thinking": "", "signature": ""}, text)
            case CallBegun(name):
                block = {"type": "tool_use", "id": self._parser.draw_id(), "name": name, "input": {}}
                return self._begin("tool_use", block)
            case CallArguments(text):
                return [self._delta(text)]
            case CallEnded():
                return self._close()
            case CallBroken(text):
                self._content.pop()
                self._open = None
                stop = ("content_block_stop", {"index": self._index})
                return [stop, *self._more("text", {"type": "text", "text": ""}, text)]

    def _more(self, kind: str, block: dict[str, Any], text: str) -> list[Told]:
        begun = [] if self._open == kind else self._begin(kind, block)
        return [*begun, self._delta(text)]

    def _begin(self, kind: str, block: dict[str, Any]) -> list[Told]:
        closed = self._close()
        self._open = kind
        self._index += 1
        self._pieces = []
        self._content.append(dict(block))
        return [*closed, ("content_block_start", {"index": self._index, "content_block": block})]

    def _delta(self, text: str) -> Told:
        self._pieces.append(text)
        delta = {
            "text": {"type": "text_delta", "text": text},
            "thinking": {"type": "thinking_delta", "thinking": text},
            "tool_use": {"type": "input_json_delta", "partial_json": text},
        }[self._open or "text"]
        return "content_block_delta", {"index": self._index, "delta": delta}

    def _close(self) -> list[Told]:
        if self._open is None:
            return []
        kind, self._open = self._open, None
        text = "".join(self._pieces)
        block = self._content[-1]
        if kind == "tool_use":
            block["input"] = json.loads(text)
        else:
            block[kind] = text
        stop: Told = ("content_block_stop", {"index": self._index})
        if kind != "thinking":
            return [stop]
        # Clients keep the signature to send it back; there is nothing here that it could vouch for.
        signature = {"type": "signature_delta", "signature": ""}
        return [("content_block_delta", {"index": self._index, "delta": signature}), stop]
