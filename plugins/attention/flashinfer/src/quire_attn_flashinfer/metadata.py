"""`StepMetadata`: one step of one KV group: where its K and V go, and who attends to which of its rows.

Knows lengths and slots; no layer and no cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from quire.contracts import AttentionBatch
from quire_attn_flashinfer.runners import DecodeRunner, PrefillRunner


class Part(NamedTuple):
    """Rows of a step that one runner has been planned for.

    Attributes:
        runner: it.
        rows: which ones.
        plan: the number of its plan.
    """

    runner: PrefillRunner | DecodeRunner
    rows: slice
    plan: int


@dataclass(slots=True)
class StepMetadata:
    """A planned step.

    Attributes:
        batch: the step; of a captured one, that it was captured with.
        parts: in the order of the step's rows; together all of them.
        targets: `[T]` int64: the slot of each row, and 0, the null block's first, of a row without one.
        unwritten: `[T, 1, 1]` bool: the row has no slot.
    """

    batch: AttentionBatch
    parts: tuple[Part, ...]
    targets: torch.Tensor = field(init=False)
    unwritten: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Say where rows go."""
        slots = self.batch.slot_mapping
        self.targets, self.unwritten = slots.clamp(min=0), (slots < 0)[:, None, None]

    def move(self, batch: AttentionBatch) -> None:
        """Take over the slots of another batch of as many rows, in the same tensors."""
        slots = batch.slot_mapping
        torch.clamp(slots, min=0, out=self.targets)
        torch.lt(slots[:, None, None], 0, out=self.unwritten)
