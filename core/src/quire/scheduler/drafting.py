"""How many tokens are proposed ahead of whom, and what became of them.

Knows counts. Must never know who proposes, nor what.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.scheduler.state import Sequence

__all__ = ["DraftStats", "Drafting"]


@dataclass(frozen=True, slots=True)
class DraftStats:
    """What speculation came to since the start.

    Attributes:
        num_drafts: times that a sequence had drafts in a step.
        num_draft_tokens: these drafts.
        num_accepted_tokens: those that proved to be what the target model says.
        num_emitted_tokens: tokens that came of those steps: the accepted ones, and one more each.
    """

    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_emitted_tokens: int = 0


class Drafting:
    """Says how far ahead of each sequence to propose."""

    def __init__(self, num_speculative_tokens: int) -> None:
        """Propose for nobody if `num_speculative_tokens` is 0."""
        self._most = num_speculative_tokens
        self._num_drafts = self._num_draft_tokens = self._num_accepted = 0

    @property
    def enabled(self) -> bool:
        """False if nothing is ever proposed."""
        return self._most > 0

    def ask(self, sequence: Sequence) -> int:
        """Tokens to propose once the step being planned has sampled for `sequence`; 0 for none.

        Its counts are those after that step. The token after the last draft has to have its place, too.
        """
        length = len(sequence.token_ids) + sequence.num_pending  # at least
        return max(0, min(self._most, sequence.state.max_len - length - 1))

    def verified(self, num_drafts: int, num_accepted: int) -> None:
        """A step had `num_drafts` drafts of a sequence, of which the first `num_accepted` were right."""
        self._num_drafts += 1
        self._num_draft_tokens += num_drafts
        self._num_accepted += num_accepted

    def stats(self) -> DraftStats:
        """The totals."""
        return DraftStats(
            self._num_drafts,
            self._num_draft_tokens,
            self._num_accepted,
            self._num_accepted + self._num_drafts,
        )
