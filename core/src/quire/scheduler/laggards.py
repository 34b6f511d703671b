"""Who has fallen behind since others have drafts, and who may fall behind how far.

A step with drafts takes longer, also for a sequence whose own drafts are wrong. Where others wait for seats
that is made up for: those that are helped end sooner. Where nobody waits it is a loss: whoever waits for that
sequence waits longer, and a batch ends with its last one. So every sequence has an account, in plain steps:
what steps with drafts took more while it was running, less the tokens that its own drafts have brought it.
What all lose alike is not looked at here: it is what the allowance of `Drafting` is for.

Knows counts and shares of a plain step's time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quire.scheduler.state import Sequence

__all__ = ["Account", "Laggards"]

_AT_ONCE = 0.5
"""Plain steps by which any sequence may fall behind the others: without them nothing could be tried."""
_SHARE = 0.01
"""And of those that it has taken, this share."""
_OF_GAIN = 0.25
"""And of what all are ahead, on average: where drafts help most of them much, others may lose a little."""


@dataclass(slots=True)
class Account:
    """Of one sequence, in plain steps.

    Attributes:
        since: what had been charged when it was opened; None before.
        won: tokens that its drafts have brought it.
    """

    since: float | None = None
    won: float = 0.0


class Laggards:
    """Keeps the accounts of those that run."""

    def __init__(self) -> None:
        """Nothing was charged."""
        self._charged = 0.0

    def charge(self, excess: float) -> None:
        """A step took so much more, as a share of a plain one, for its drafts and proposals."""
        self._charged += excess

    def credit(self, sequence: Sequence, tokens: float) -> None:
        """A sequence has had so many tokens more than a plain step brings."""
        sequence.account.won += tokens

    def room(self, sequences: Iterable[Sequence]) -> list[float]:
        """Plain steps by which each may fall behind from here; negative for one that already has."""
        rooms, lead, number = [], 0.0, 0
        for sequence in sequences:
            account = sequence.account
            if account.since is None:
                account.since = self._charged
            ahead = account.won - (self._charged - account.since)
            rooms.append(_AT_ONCE + _SHARE * sequence.num_output + ahead)
            lead += ahead
            number += 1
        mean = lead / max(number, 1)  # if it is negative, what all have lost
        more = _OF_GAIN * mean if mean > 0 else -mean
        return [room + more for room in rooms]

    @staticmethod
    def bear(room: Iterable[float], cost: float, tokens: Iterable[float]) -> bool:
        """Whether a step may cost so much more: whoever is to lose by it has room for that.

        Args:
            room: of each sequence.
            cost: as a share of a plain step.
            tokens: that each is expected to have more of it.
        """
        return all(more >= cost or left >= cost - more for left, more in zip(room, tokens, strict=True))
