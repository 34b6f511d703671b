"""Where in a growing text each run of a few tokens occurred last.

Runs are told apart by a 64-bit sum of products of their tokens with fixed odd numbers. Should two runs share
one, which is not to be expected in a text that fits any context, then what is found is a poor guess and no
error. Knows one text, and never why it is asked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_IN_BULK = 32
"""New tokens above which NumPy is faster than a loop; runs are no longer."""


def _multiplier(place: int) -> int:
    """An odd number of 64 bits: the finaliser of splitmix64 (Steele et al. 2014) at the next step."""
    x = (place + 1) * _GOLDEN & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return (x ^ x >> 31) | 1


class RunIndex:
    """The last occurrence of every run of `shortest` to `longest` tokens that something follows.

    It takes some hundred bytes per token and length.

    Attributes:
        length: tokens of the text so far, the last of which begin no occurrence: nothing follows them yet.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self.length = 0
        self._shortest, self._longest = shortest, longest
        self._multipliers = [_multiplier(place) for place in range(longest)]
        self._after: dict[int, int] = {}  # run -> position of the token that follows
        self._last: list[int] = []  # runs that end the text, shortest first

    def extend(self, text: NDArray[np.int32]) -> None:
        """Take in what has been added to the text `[n]`; its beginning is as it was."""
        if len(text) - self.length > _IN_BULK:
            self._extend_in_bulk(text)
        first, after = self.length, self._after
        begin = max(first + 1 - self._longest, 0)
        ids = text[begin:].tolist() if len(text) > first else []
        for end in range(first, len(text)):
            for run in self._last:
                after[run] = end
            self._last = self._runs(ids[max(end + 1 - self._longest - begin, 0) : end + 1 - begin])
        self.length = len(text)

    def find(self) -> int | None:
        """Where the longest run that ends the text went on, the last time that it occurred."""
        for run in reversed(self._last):
            if (position := self._after.get(run)) is not None:
                return position
        return None

    def _runs(self, last: list[int]) -> list[int]:
        """The runs that end with these tokens, shortest first."""
        run, runs, shortest = 0, [], self._shortest
        for place, token in enumerate(reversed(last)):
            run += (token + 1) * self._multipliers[place]
            if place + 1 >= shortest:
                runs.append(run & _MASK)
        return runs

    def _extend_in_bulk(self, text: NDArray[np.int32]) -> None:
        """The same for all but the last new token."""
        until, first = len(text) - 1, max(self.length - 1, 0)
        base = max(first + 1 - self._longest, 0)
        tokens = text[base:until].astype(np.uint64) + np.uint64(1)
        sums = np.zeros(until - first, dtype=np.uint64)  # of the runs that end at first, first + 1, ...
        for place, multiplier in enumerate(self._multipliers):
            begins = first - place - base  # where the token `place` before `first` is
            skip = max(-begins, 0)
            part = tokens[begins + skip : begins + len(sums)]
            sums[skip:] += part * np.uint64(multiplier)
            if place + 1 >= self._shortest:
                self._after.update(zip(sums[skip:].tolist(), range(first + skip + 1, until + 1), strict=True))
        self.length = until
        self._last = self._runs(text[max(0, until - self._longest) : until].tolist())
