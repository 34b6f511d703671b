"""The standard sampler's part in captured steps: parameters by slot on the device, three forms of drawing.

Knows which rows need no more than their logits and their slot's numbers; how those are drawn is the kernels'
business.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from quire.contracts import CapturedDraw, SampleRows
from quire.ops.slots import SlotShapes
from quire.ops.upload import pack, unpack
from quire_sampler_standard.slots import SlotTable, Trait

if TYPE_CHECKING:
    from quire.ops import Kernels

GREEDY, UNCUT, CUT = range(3)
"""All rows take their argmax; none has a top-k or top-p; any may have.

What cuts rows off is more launches than all the rest, though each would return at once.
"""


class DrawBySlot(CapturedDraw):
    """Draws rows in which no processor names tokens: temperature, min-p, top-k, top-p and the argmax."""

    forms = 3

    def __init__(self, kernels: Kernels, table: SlotTable, device: str, *, coupled: bool) -> None:
        """Take memory on the device.

        Args:
            kernels: whose sampling can be captured.
            table: the sampler's; only read.
            device: torch device string.
            coupled: whether draws are, see `SamplerNeed`.
        """
        self._kernels, self._table, self._coupled = kernels, table, coupled
        self._version = table.version
        # One memory for all of them: they are brought up to date by one copy, of some kilobytes.
        columns = self._columns()
        self._there = pack(columns, pin_memory=False).to(device)
        greedy, temperature, margin, top_k, top_p, seed = unpack(self._there, columns)
        self._cut = SlotShapes(greedy, temperature, margin, top_k, top_p, seed)
        self._uncut = replace(self._cut, top_k=None, top_p=None)

    def prepare(self, rows: SampleRows) -> int | None:
        table = self._table
        if not table.demanding:
            return GREEDY
        slots = np.asarray(rows.slots, dtype=np.int64)
        traits = table.traits[slots]
        used = int(np.bitwise_or.reduce(traits, initial=0))
        edits = used & Trait.SPARSE
        if edits and (
            edits != Trait.MIN_TOKENS or (np.asarray(rows.positions) < table.free_from[slots]).any()
        ):
            return None
        if np.bitwise_and.reduce(traits, initial=Trait.GREEDY):
            return GREEDY
        if self._version != table.version:
            # In the order of the stream, from memory of its own: steps in flight read what was there.
            packed = pack(self._columns(), pin_memory=self._there.device.type != "cpu")
            self._there.copy_(packed, non_blocking=True)
            self._version = table.version
        return CUT if used & Trait.TOP else UNCUT

    def draw(
        self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor, form: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if form == GREEDY:
            best, _, invalid = self._kernels.peak(logits)
            return best, invalid
        shapes = self._cut if form == CUT else self._uncut
        return self._kernels.sample_slots(logits, slots, positions, shapes, coupled=self._coupled)

    def _columns(self) -> tuple[torch.Tensor, ...]:
        """What `SlotShapes` holds, on the host."""
        table = self._table
        return (
            torch.from_numpy((table.traits & Trait.GREEDY) != 0),
            torch.from_numpy(table.temperature),
            torch.from_numpy(table.min_p).log().float(),
            torch.from_numpy(table.top_k),
            torch.from_numpy(table.top_p),
            torch.from_numpy(table.seed.view(np.int64)),
        )
