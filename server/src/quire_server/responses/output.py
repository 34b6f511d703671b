"""`Output`: a response's items - thinking, messages, calls - as they come, and the events that tell of them.

Fed with the engine's deltas. Knows OpenAI's forms of items; knows no response around them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from quire import CompletionOutput
from quire.contracts import CallArguments, CallBegun, CallBroken, CallEnded, Content, Event, Reasoning
from quire_server.service import AnswerParser

Kind = Literal["message", "reasoning", "function_call"]
Told = tuple[str, dict[str, Any]]
"""An event: its type without `response.`, and its fields."""

_PREFIXES: dict[Kind, str] = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_TEXTS: dict[Kind, str] = {"message": "output_text", "reasoning": "reasoning_text"}


def new_id(prefix: str) -> str:
    """An id that cannot be guessed: knowing a stored response's id is what gives access to it."""
    return f"{prefix}_{secrets.token_hex(24)}"


@dataclass(slots=True, kw_only=True)
class Item:
    """An item of the output.

    Attributes:
        kind: its type.
        index: its place in the stream.
        id: its own.
        text: of a message or of thinking; the arguments of a call.
        logprobs: of a message's tokens.
        call_id, name: of a call.
        called: it is a call, and complete.
    """

    kind: Kind
    index: int
    id: str
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    called: bool = False

    def part(self) -> dict[str, Any]:
        """The text with what belongs to it."""
        part: dict[str, Any] = {"type": _TEXTS[self.kind], "text": self.text}
        return part | {"annotations": [], "logprobs": self.logprobs} if self.kind == "message" else part

    def view(self, status: str, *, begun: bool = False) -> dict[str, Any]:
        """The item; with `begun` as it is announced, before it has content."""
        own: dict[str, Any] = {"id": self.id, "type": self.kind, "status": "in_progress" if begun else status}
        content = [] if begun else [self.part()] if self.kind != "function_call" else []
        match self.kind:
            case "message":
                return own | {"role": "assistant", "content": content}
            case "reasoning":
                return own | {"summary": [], "content": content}
            case _:
                return own | {
                    "call_id": self.call_id,
                    "name": self.name,
                    "arguments": "" if begun else self.text,
                }


class Output:
    """Takes deltas, keeps items.

    A call that turns out to be none is told of as an item that ended incomplete, and is not kept: its text
    is a message's.

    Attributes:
        items: so far.
        parser: of the text.
    """

    def __init__(self, parser: AnswerParser) -> None:
        self.items: list[Item] = []
        self.parser = parser
        self._open: Item | None = None
        self._count = 0
        self._logprobs: list[dict[str, Any]] = []  # of tokens whose text is held back

    def text(self, kind: Kind) -> str:
        """All text of one kind of items."""
        return "".join(item.text for item in self.items if item.kind == kind)

    def take(self, one: CompletionOutput, logprobs: list[dict[str, Any]]) -> list[Told]:
        """Events of what is new."""
        events = self.parser.feed(one.text, len(one.token_ids))
        if one.finish_reason is not None:
            events += self.parser.finish()
        self._logprobs += logprobs
        return [told for event in events for told in self._tell(event)]

    def begin_message(self) -> list[Told]:
        """Begin a message; events of its beginning."""
        return self._begin("message")

    def end(self, status: str) -> list[Told]:
        """Close what is open; a message of nothing is made, if there is no item."""
        begun = [] if self._count else self.begin_message()
        return [*begun, *self._close(status)]

    def _tell(self, event: Event) -> list[Told]:
        match event:
            case Content(text):
                return self._more("message", text)
            case Reasoning(text):
                return self._more("reasoning", text)
            case CallBegun(name):
                return self._begin("function_call", call_id=self.parser.draw_id(), name=name)
            case CallArguments(text):
                return self._delta("function_call_arguments", text)
            case CallEnded():
                self.items[-1].called = True
                return self._close("completed")
            case CallBroken(text):
                broken = self._close("incomplete", arguments_done=False)
                self.items.pop()
                return [*broken, *self._more("message", text)]

    def _more(self, kind: Kind, text: str) -> list[Told]:
        begun = [] if self._open is not None and self._open.kind == kind else self._begin(kind)
        return [*begun, *self._delta(_TEXTS[kind], text)]

    def _begin(self, kind: Kind, call_id: str = "", name: str = "") -> list[Told]:
        closed = self._close("completed")
        item = Item(kind=kind, index=self._count, id=new_id(_PREFIXES[kind]), call_id=call_id, name=name)
        self._count += 1
        self._open = item
        self.items.append(item)
        told: list[Told] = [
            ("output_item.added", {"output_index": item.index, "item": item.view("", begun=True)})
        ]
        if kind in _TEXTS:
            told.append(("content_part.added", {**_place(item), "part": item.part()}))
        return [*closed, *told]

    def _delta(self, kind: str, text: str) -> list[Told]:
        item = self._open
        assert item is not None
        item.text += text
        logprobs, self._logprobs = self._logprobs, []
        more = {}
        if item.kind == "message":
            item.logprobs += logprobs
            more = {"logprobs": logprobs}
        return [(f"{kind}.delta", {**_place(item), "delta": text, **more})]

    def _close(self, status: str, *, arguments_done: bool = True) -> list[Told]:
        item, self._open = self._open, None
        if item is None:
            return []
        told: list[Told] = []
        if item.kind == "function_call":
            if arguments_done:
                done = {**_place(item), "name": item.name, "arguments": item.text}
                told.append(("function_call_arguments.done", done))
        else:
            more = {"logprobs": item.logprobs} if item.kind == "message" else {}
            told.append((f"{_TEXTS[item.kind]}.done", {**_place(item), "text": item.text, **more}))
            told.append(("content_part.done", {**_place(item), "part": item.part()}))
        return [*told, ("output_item.done", {"output_index": item.index, "item": item.view(status)})]


def _place(item: Item) -> dict[str, Any]:
    place: dict[str, Any] = {"output_index": item.index, "item_id": item.id}
    return place if item.kind == "function_call" else {**place, "content_index": 0}
