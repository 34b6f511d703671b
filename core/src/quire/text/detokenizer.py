"""Text from tokens as they come.

Knows token ids and text; knows nothing of requests, stop strings or streams. What it gives,
joined, is the decoding of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quire.text._assembly import make_assembler
from quire.text.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer"]


class IncrementalDetokenizer:
    """Turns the generated ids of one completion into text, never taking back what it gave.

    The text is what the generated tokens add to the prompt's: a leading space that the decoder
    would strip from a text's beginning stays when there is a prompt before it, and a character that the
    prompt's last token began comes whole. Characters split over tokens are held back until they
    are complete; bytes that are no UTF-8 become U+FFFD. Joined, it equals
    `tokenizer.decode(prompt_ids + ids)` from where the whole characters of the prompt end.

    Cost: O(1) per token, and about a microsecond for the usual decoders (byte-level, byte fallback).

    Args:
        tokenizer: the model's.
        prompt_ids: what came before; empty to decode ids on their own.
        skip_special_tokens: leave out special tokens.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> None:
        self._hidden: frozenset[int] = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._assembler = make_assembler(tokenizer)
        self._assembler.prime([id_ for id_ in prompt_ids if id_ not in self._hidden])
        self._parts: list[str] = []

    def append(self, ids: Iterable[int]) -> str:
        """Take new ids; returns the text that is settled by them, possibly none."""
        push = self._assembler.push
        hidden = self._hidden
        return self._take("".join([push(id_) for id_ in ids if id_ not in hidden]))

    def finish(self) -> str:
        """No more ids: returns the text of what was held back."""
        return self._take(self._assembler.finish())

    @property
    def text(self) -> str:
        """All text given so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def _take(self, text: str) -> str:
        if text:
            self._parts.append(text)
        return text
