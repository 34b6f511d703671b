"""Small things about legal tokens: rows of bits, a bit per token, and matchers that go on by several.

Knows no request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from quire.contracts.grammar import Matcher

__all__ = ["accept_all", "only_ids", "pack_ids"]


def accept_all(matcher: Matcher, ids: Sequence[int], end_ids: Collection[int]) -> int | None:
    """Go on by all of these: how many the matcher has taken, to be rolled back.

    After its end an output has no form: where it goes on all the same, it does with end tokens, which no
    matcher takes.

    Returns:
        None, and nothing has changed, if one of them is not legal.
    """
    taken = 0
    for token in ids:
        if matcher.is_terminated():
            legal = token in end_ids
        else:
            legal = matcher.accept(token)
            taken += legal
        if not legal:
            matcher.rollback(taken)
            return None
    return taken


def pack_ids(ids: Iterable[int], width: int) -> NDArray[np.int32]:
    """A row of a bitmask, `[width]`, with the bits of some ids."""
    row = np.zeros(width, dtype=np.uint32)
    for one in ids:
        row[one // 32] |= np.uint32(1 << (one % 32))
    return row.view(np.int32)


def only_ids(rows: NDArray[np.int32]) -> list[tuple[int, int]]:
    """The rows `[R, W]` with exactly one bit, each with the number of that bit."""
    words = rows.view(np.uint32)
    used = words != 0
    # From both ends, for a search stops where it finds something: most rows have bits near either.
    first, last = used.argmax(axis=1).tolist(), used[:, ::-1].argmax(axis=1).tolist()
    found, end = [], words.shape[1] - 1
    for row, (low, high) in enumerate(zip(first, last, strict=True)):
        if low + high == end:
            value = int(words[row, low])
            if value and value & (value - 1) == 0:
                found.append((row, 32 * low + value.bit_length() - 1))
    return found
