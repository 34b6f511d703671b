"""Draws guesses as the tokens themselves will be drawn: by processors, masks, sampler and random numbers.

Knows logits and slots. Must never know which model the logits are of, nor what becomes of a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from quire.contracts import Sampler, SampleRows
from quire.plan import TokenMasks
from quire.runtime.masking import masked_logits
from quire.runtime.processors import Processors

if TYPE_CHECKING:
    from quire.ops import Kernels

Legal: TypeAlias = Callable[[Sequence[int], Sequence[Sequence[int]]], TokenMasks | None]
"""Which tokens slots may say after so many more tokens of each than were known when the step was sampled: a
row for each slot that it still knows; None for none."""


class Guessing:
    """Guesses of one round at a time, one more token of each slot after the other."""

    def __init__(self, sampler: Sampler, processors: Processors, kernels: Kernels) -> None:
        self._sampler, self._processors, self._kernels = sampler, processors, kernels
        self._said: Mapping[int, Sequence[int]] = {}
        self._masked: Collection[int] = ()
        self._legal: Legal | None = None
        self.begin()

    def tell(self, said: Mapping[int, Sequence[int]], masked: Collection[int], legal: Legal | None) -> None:
        """What came of the step after which is guessed.

        Args:
            said: tokens that it gave each slot.
            masked: slots of which only masked logits may be drawn from.
            legal: knows these masks; None if nobody does: guesses are then made without.
        """
        self._said, self._masked, self._legal = said, masked, legal

    def begin(self) -> None:
        """A round of guesses begins."""
        self._guessed: list[torch.Tensor] = []
        self._logits: list[torch.Tensor] = []

    def draw(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        """A token from each row.

        Where there are masks, or processors have something to do, it waits for the guesses before.

        Args:
            logits: `[N, V]`, must not be written to.
            rows: N different slots: the first of those of the last call in this round.

        Returns:
            `[N]` int64, on the device.
        """
        slots, edited = list(rows.slots), self._processors.edits(rows.slots)
        masked = [] if self._legal is None else [i for i, slot in enumerate(slots) if slot in self._masked]
        ahead: list[list[int]] = [[] for _ in slots]
        if self._guessed and (edited or masked):
            ahead = torch.stack([ids[: len(slots)] for ids in self._guessed], dim=1).tolist()
        work = logits
        if edited:
            self._logits.append(logits)
            work = self._edited(rows, ahead)
        if masked and self._legal is not None:
            said = [[*self._said.get(slots[i], ()), *ahead[i]] for i in masked]
            masks = self._legal([slots[i] for i in masked], said)
            if masks is not None:
                work = masked_logits(self._kernels, work, rows, masks)
        ids = self._sampler.draw(self._sampler.process(work, rows), rows)
        self._guessed.append(ids)
        return ids

    def _edited(self, rows: SampleRows, ahead: list[list[int]]) -> torch.Tensor:
        """The last logits as processors leave them, `[N, V]`: they are shown all that were guessed from."""
        length = len(self._logits)
        if length == 1:
            return self._processors.apply(self._logits[0], rows)
        count = len(rows.slots)
        chains = torch.stack([logits[:count] for logits in self._logits], dim=1)  # [N, length, V]
        each = [(i, j) for i in range(count) for j in range(length)]
        chain_rows = SampleRows(
            slots=[rows.slots[i] for i, _ in each],
            positions=[rows.positions[i] - (length - 1) + j for i, j in each],
            draft_counts=[j for _, j in each],
        )
        before = torch.tensor([ahead[i][j - 1] if j else 0 for i, j in each], dtype=torch.int64)
        return self._processors.apply(chains.flatten(0, 1), chain_rows, before)[length - 1 :: length]
