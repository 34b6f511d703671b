"""In which steps hidden states are kept, for whoever proposes by them.

They are read when somebody is asked to propose, and then those of the whole context, as far as there are
any. To keep them costs a step some of its time, so a step in which drafts have no part keeps none: its time
is what drafts are measured by. Those that read a prompt do, as long as proposals are being asked for: nobody
measures by them, and what they leave out is missing for as long as the request lives.

Knows counts of steps. Must never know who proposes, nor by what.
"""

from __future__ import annotations

__all__ = ["Keeping"]

_QUIET = 64
"""Steps that sample, but in which drafts have no part, after which prompts are no longer kept: as many as may
go by between two trials of a request whose drafts fail now and then."""


class Keeping:
    """Says of each step whether its states are kept."""

    def __init__(self) -> None:
        self._quiet = 0

    def decide(self, *, drafts: bool, samples: bool, reads: bool) -> bool:
        """Whether the step being planned keeps them.

        Args:
            drafts: it verifies some, or somebody is asked for some.
            samples: for anybody.
            reads: tokens that were not sampled in the step before, such as a prompt's.
        """
        if drafts:
            self._quiet = 0
            return True
        self._quiet += samples
        return reads and self._quiet <= _QUIET
