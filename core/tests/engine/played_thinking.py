"""What reads thinking in tests: token n is character n, and thoughts are in brackets."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from quire.contracts import Content, Event, ReasoningParser
from quire.engine.thinking_runner import ThinkingReader
from quire.text.tokenizer import Tokenizer


class CharTokenizer:
    """Id n is character n."""

    decoder_state: ClassVar[dict[str, Any]] = {"type": "ByteLevel"}
    special_ids: frozenset[int] = frozenset()

    def piece(self, token_id: int) -> str:
        return chr(token_id)

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))


class Played(ReasoningParser):
    """Thinks from "(" to ")"; breaks at "!"; other text is content once it has thought."""

    def __init__(self, *arguments: object) -> None:
        self._state = "before"

    def feed(self, text: str) -> list[Event]:
        found: list[Event] = []
        for char in text:
            if char == "!":
                raise RuntimeError("on purpose")
            if char in "()":
                self._state = "inside" if char == "(" else "after"
            elif self._state == "after":
                found.append(Content(char))
        return found

    def finish(self) -> list[Event]:
        return []

    @property
    def inside(self) -> bool:
        return self._state == "inside"

    @property
    def end(self) -> str:
        return ")"


def bracket_reader() -> ThinkingReader:
    """Reads them."""
    return ThinkingReader(cast(Tokenizer, CharTokenizer()), Played)
