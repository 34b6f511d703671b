"""Masks over the vocabulary: which tokens of a row may be sampled, a bit each.

Knows tensors; knows no grammar and no request.
"""

from __future__ import annotations

import numpy as np
import torch


class MaskOps:
    """What applies masks on the device. Inputs are never written to."""

    def apply_token_bitmask(self, logits: torch.Tensor, bits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """The logits with -inf where a row's bit is 0; rows without a mask as they are.

        Args:
            logits: `[R, V]`, any float dtype.
            bits: `[M, ceil(V / 32)]` int32 on the device of the logits: bit i % 32 of word i // 32 is
                token i.
            rows: M row numbers in ascending order: mask i is that of row `rows[i]`.

        Returns:
            `[R, V]` of the logits' dtype.
        """
        legal = _unpacked(bits)[:, : logits.shape[1]]  # [M, V]
        if len(rows) == len(logits):
            return logits.masked_fill(~legal, float("-inf"))
        masked = logits.clone()
        for mask, row in enumerate(rows):  # row by row: an index would go to the device first
            masked[row].masked_fill_(~legal[mask], float("-inf"))
        return masked


def _unpacked(bits: torch.Tensor) -> torch.Tensor:
    """`[M, W]` int32 -> `[M, 32 W]` bool: by bytes, each looked up in a table of its bits."""
    if bits.device.type == "cpu":  # numpy does it in vector registers
        packed = bits.contiguous().numpy().view(np.uint8)
        return torch.from_numpy(np.unpackbits(packed, axis=1, bitorder="little")).view(torch.bool)
    table = (torch.arange(256, device=bits.device).unsqueeze(1) >> torch.arange(8, device=bits.device)) & 1
    return table.bool()[bits.contiguous().view(torch.uint8).long()].flatten(1)
