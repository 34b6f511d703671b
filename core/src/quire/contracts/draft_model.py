"""A draft model as a speculator sees it: slots go in, logits come out.

The worker loads it, builds its batches and keeps its K and V: they lie by the block tables of the requests,
in tensors of their own. Which tokens are taken from the logits is the speculator's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class DraftModel(ABC):
    """A model beside the one that is served, of the same vocabulary.

    What it knows of a slot is brought up to the slot's tokens when `begin` names it, and never before: for a
    slot that nobody asks about it computes nothing.
    """

    max_len: int
    """Tokens of the longest context that it can follow, those that are proposed included."""

    @abstractmethod
    def begin(self, slots: Sequence[int]) -> torch.Tensor:
        """What follows the tokens of some slots. Computes all of these that it has not seen.

        Args:
            slots: S distinct slots, whose contexts are shorter than `max_len`.

        Returns:
            Logits `[S, V]`, as wide as those of the model that is served.
        """

    @abstractmethod
    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        """What follows if `ids` do.

        Args:
            ids: `[N]` int64 on the device: the next token of the first N of those slots whose logits were
                returned last.

        Returns:
            Logits `[N, V]`.
        """

    @abstractmethod
    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        """A token from each row of what `begin` or `extend` has returned last.

        By the request's own logits processors, mask, sampler and random numbers: those by which the next
        token itself will be drawn. Called once after each `begin` and `extend`.

        Args:
            logits: `[N, V]`: the first N rows.

        Returns:
            `[N]` int64, on the device.
        """
