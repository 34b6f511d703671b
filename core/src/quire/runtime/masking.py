"""Masks of a step, put on the rows of logits that they are of.

Knows slots and rows. Must never know why a token is not legal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quire.contracts import SampleRows
from quire.ops.upload import upload
from quire.plan import TokenMasks

if TYPE_CHECKING:
    from quire.ops import Kernels


def masked_logits(
    kernels: Kernels, logits: torch.Tensor, rows: SampleRows, masks: TokenMasks
) -> torch.Tensor:
    """The logits with -inf where a row's slot must not go; rows of other slots as they are.

    Args:
        kernels: of the logits' device.
        logits: `[R, V]`; not written to.
        rows: R rows: that with d drafts before it takes its slot's mask d.
        masks: of some slots.
    """
    starts, first = dict[int, int](), 0
    for slot, count in zip(masks.slots, masks.counts, strict=True):
        starts[slot] = first
        first += count
    ahead = rows.draft_counts or [0] * len(rows.slots)
    places = [row for row, slot in enumerate(rows.slots) if slot in starts]
    if not places:
        return logits
    of = [starts[rows.slots[row]] + ahead[row] for row in places]
    bits = masks.bits if of == list(range(first)) else masks.bits[of]
    on_device = upload(logits.device, torch.from_numpy(bits))[0]
    return kernels.apply_token_bitmask(logits, on_device, places)
