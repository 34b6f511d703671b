"""The n-grams of a text so far, by what they began with. Knows token ids only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Ngrams:
    """Which tokens have followed each n - 1 tokens; grows at the text's end."""

    def __init__(self, size: int, token_ids: Iterable[int] = ()) -> None:
        """Start with a text.

        Args:
            size: n, at least 1.
            token_ids: the text.
        """
        self._size = size
        self._followers: dict[tuple[int, ...], set[int]] = {}
        self._tail: tuple[int, ...] = ()  # the last n - 1 tokens, fewer at the start
        self.extend(token_ids)

    def extend(self, token_ids: Iterable[int]) -> None:
        """The text goes on."""
        for token in token_ids:
            if len(self._tail) == self._size - 1:
                self._followers.setdefault(self._tail, set()).add(token)
            self._tail = self._next(self._tail, token)

    def banned(self, drafts: Sequence[int] = ()) -> set[int]:
        """Tokens that would repeat an n-gram after the text and `drafts`."""
        tail, fresh = self._tail, list[tuple[tuple[int, ...], int]]()
        for token in drafts:
            if len(tail) == self._size - 1:
                fresh.append((tail, token))
            tail = self._next(tail, token)
        if len(tail) < self._size - 1:
            return set()
        return self._followers.get(tail, set()) | {token for start, token in fresh if start == tail}

    def _next(self, tail: tuple[int, ...], token: int) -> tuple[int, ...]:
        return (*tail, token)[-(self._size - 1) :] if self._size > 1 else ()
