"""What UTF-8 forbids after the first byte of a character, which XGrammar does not hold.

It lets surrogates, overlong forms and numbers beyond Unicode through; whoever reads the text sees several
U+FFFD instead of one character. Only the second byte decides (RFC 3629, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["SecondBytes"]

_ALLOWED = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}


class SecondBytes:
    """Which tokens may follow one that ends with the first byte of a character.

    Attributes:
        lead: per token id its last byte if that says something about the next one, else 0.
    """

    def __init__(self, tokens: Sequence[bytes], width: int) -> None:
        """For a vocabulary.

        Args:
            tokens: bytes of each id.
            width: words in a row of a bitmask.
        """
        self.lead = [token[-1] if token and token[-1] in _ALLOWED else 0 for token in tokens]
        first = np.array([token[0] if token else 0 for token in tokens], dtype=np.uint8)
        self._rows = {}
        for lead, (low, high) in _ALLOWED.items():
            legal = np.zeros(32 * width, dtype=bool)
            legal[: len(tokens)] = (first >= low) & (first <= high)
            self._rows[lead] = np.packbits(legal, bitorder="little").view(np.int32)

    def after(self, lead: int) -> NDArray[np.int32]:
        """The tokens `[width]` that may follow a lead byte, as a row of a bitmask."""
        return self._rows[lead]

    def allows(self, lead: int, token_id: int) -> bool:
        """Whether one token may."""
        return bool(self._rows[lead][token_id // 32] >> (token_id % 32) & 1)
