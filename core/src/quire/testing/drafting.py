"""Speculation whether it pays or not, for tests of what drafts do."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many

from quire.scheduler import Scheduler
from quire.scheduler.drafting import Drafting
from quire.scheduler.state import Sequence

__all__ = ["AlwaysDrafting", "always_draft"]

Asks = Callable[[Sequence], bool]


class AlwaysDrafting(Drafting):
    """Asks for as many tokens as there may be, of all sequences that `asks` names."""

    def __init__(self, num_speculative_tokens: int, asks: Asks = lambda _: True) -> None:
        super().__init__(num_speculative_tokens)
        self._asks = asks

    def ask(self, sequences: Many[Sequence], *, full: bool = False) -> list[int]:
        """As far as each may grow."""
        return [self._bound(sequence) if self._asks(sequence) else 0 for sequence in sequences]

    def answered(self, sequence: Sequence, found: bool) -> None:
        """Who says nothing is asked again all the same."""


def always_draft(scheduler: Scheduler, num_speculative_tokens: int, asks: Asks = lambda _: True) -> None:
    """Have a scheduler ask for so many tokens each time."""
    scheduler._drafting = AlwaysDrafting(num_speculative_tokens, asks)
