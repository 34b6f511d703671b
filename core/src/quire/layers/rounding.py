"""From float rows to int8 codes and scales. Knows tensors, and nothing of layers or files."""

from __future__ import annotations

import torch

from quire.errors import CheckpointError

LARGEST = 127
"""Codes are symmetric, -127 to 127: a weight and its negative have negative codes."""

_SLICE_ELEMENTS = 1 << 20
"""Elements widened to fp32 at a time: 4 MiB, which stay in the processor's cache over the passes."""


def quantize_rows(rows: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, name: str) -> None:
    """Round every row, or each group of it, to the nearest multiples of its own scale: its largest / 127.

    The error of an element is at most half its scale. Halves are rounded to even. Zeros alone have zeros for
    codes, and the scale 1. A scale of the scales' dtype is as close as that is to its largest / 127.

    Args:
        rows: `[N, K]` float.
        codes: `[N, K]` int8, written.
        scales: `[N]` fp32 or bf16, or `[N, G]` for groups of K / G elements; written.
        name: the tensor, for errors.

    Raises:
        CheckpointError: a row holds NaN or infinity, which no scale represents.
    """
    outputs, inputs = rows.shape
    grouped = scales.view(outputs, -1)  # [N, G]
    if not inputs:
        grouped.fill_(1.0)
        return
    step = max(1, _SLICE_ELEMENTS // inputs)
    for start in range(0, outputs, step):
        part = slice(start, start + step)
        wide = rows[part].float().reshape(-1, grouped.shape[1], inputs // grouped.shape[1])  # [n, G, K/G]
        low, high = wide.aminmax(dim=2)
        largest = torch.maximum(-low, high)  # [n, G]
        if not bool(largest.isfinite().all()):
            row = start + int((~largest.isfinite()).nonzero()[0, 0])
            raise CheckpointError(
                f"Tensor {name!r} holds NaN or infinity in row {row}, which int8 cannot represent. "
                "Leave its module as it is by the quantization's options (plugins.options), or repair the "
                "checkpoint."
            )
        scale = torch.where(largest > 0, largest / LARGEST, 1.0).clamp_min(torch.finfo(torch.float32).tiny)
        grouped[part] = scale
        # By what was kept: a scale that became smaller by rounding may ask for a code beyond the largest.
        kept = grouped[part].float().unsqueeze(2)
        codes[part] = (wide / kept).round_().clamp_(-LARGEST, LARGEST).flatten(1)
