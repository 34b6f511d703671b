"""How the rows of a call are shaped: where kernels find each row's temperature, top-k and the like.

Numbers lie in arrays of one entry per row, or of one per slot with the slot of each row beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True, slots=True)
class RowShapes:
    """Arrays on the device, `[R]`, or `[S]` if there are slots.

    Attributes:
        slots: `[R]` int64, negative for a row that is only there to fill a batch; None: arrays are per row.
        temperature, margin: fp32, margin the logarithm of min-p; None: logits are shaped already.
        top_k: int64; None if no row is bounded.
        top_p: fp64; None if no row has one below 1.
    """

    slots: torch.Tensor | None = None
    temperature: torch.Tensor | None = None
    margin: torch.Tensor | None = None
    top_k: torch.Tensor | None = None
    top_p: torch.Tensor | None = None


@triton.jit
def place_of(row, slots):  # type: ignore[no-untyped-def]
    """Index of a row's numbers; negative for a filling row."""
    if slots is not None:
        return tl.load(slots + row).to(tl.int64)
    return row


@triton.jit
def shape_of(place, peaks, row, temperature, margin):  # type: ignore[no-untyped-def]
    """A row's shaped peak, its temperature and its margin."""
    peak = tl.load(peaks + row).to(tl.float32)
    if temperature is not None:
        own = tl.load(temperature + place)
        return tl.div_rn(peak, own), own, tl.load(margin + place)
    return peak, 1.0, float("-inf")
