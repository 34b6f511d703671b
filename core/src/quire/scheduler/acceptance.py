"""How well a sequence's drafts do: the running estimate of what the next one is worth.

Knows counts of one sequence, and the mean over all.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Acceptance"]

_FADE = 0.85
"""What a verification leaves of the weight of those before it."""
_WEIGHT = 1.0
"""What the mean over all counts for, in drafts."""
_LONGEST_SILENCE = 8
"""The same for a sequence to which nothing comes to mind, which costs no rows."""
_FIRST_GAP, _LONGEST_GAP = 4, 64
"""Tokens until a sequence whose drafts do not pay is tried again: doubled with each failure."""
_TRIES = 3
"""Wrong drafts in a row that make a failure: whoever proposes has caught up by the first, at some cost."""


@dataclass(slots=True)
class Acceptance:
    """Of one sequence.

    Attributes:
        right, wrong: drafts that were accepted, and first ones that were not; fading.
        found, empty: answers to being asked, with drafts and without; fading.
        tries: wrong drafts in a row that this trial may still have.
        gap: tokens from one trial to the next.
        due: length from which the next trial may be.
        silence: tokens that it is left alone for, should nothing come to mind.
        silent_until: length from which it may be asked.
        known: its length when it was last asked; 0 before.
    """

    right: float = 0.0
    wrong: float = 0.0
    found: float = 0.0
    empty: float = 0.0
    tries: int = _TRIES
    gap: int = _FIRST_GAP
    due: int = 0
    silence: int = 1
    silent_until: int = 0
    known: int = 0

    def chance(self, mean: float) -> float:
        """Probability that a draft is accepted if those before it are; `mean` is that over all sequences."""
        return (self.right + _WEIGHT * mean) / (self.right + self.wrong + _WEIGHT)

    def answers(self) -> float:
        """Probability that asking brings drafts."""
        return (self.found + 1.0) / (self.found + self.empty + 1.0)

    def answered(self, length: int, found: bool) -> None:
        """It was asked, and something came to mind or did not."""
        self.known = length
        self.found = self.found * _FADE + found
        self.empty = self.empty * _FADE + (not found)
        if found:
            self.silence = 1
        else:
            self.silent_until = length + self.silence
            self.silence = min(2 * self.silence, _LONGEST_SILENCE)

    def verified(self, length: int, drafts: int, accepted: int) -> None:
        """Of its drafts the first `accepted` were right."""
        self.right = self.right * _FADE + accepted
        self.wrong = self.wrong * _FADE + (accepted < drafts)
        self.tries -= 1
        if accepted:
            self.tries, self.gap = _TRIES, _FIRST_GAP
        elif self.tries == 0:
            self.tries, self.gap = _TRIES, min(2 * self.gap, _LONGEST_GAP)
            self.due = length + self.gap
