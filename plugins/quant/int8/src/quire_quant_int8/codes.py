"""From float rows to int8 codes and scales. Knows tensors, and nothing of layers or files."""

from __future__ import annotations

import torch

from quire.errors import CheckpointError

LARGEST = 127
"""Codes are symmetric, -127 to 127: a weight and its negative have negative codes."""

_SLICE_ELEMENTS = 1 << 20
"""Elements widened to fp32 at a time: 4 MiB, which stay in the processor's cache over the passes."""


def quantize_rows(rows: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, name: str) -> None:
    """Round every row to the nearest multiples of its own scale, the greatest magnitude / 127.

    The error of an element is at most half its row's scale. Halves are rounded to even. A row of zeros has
    zeros for codes, and the scale 1.

    Args:
        rows: `[N, K]` float.
        codes: `[N, K]` int8, written.
        scales: `[N]` fp32, written.
        name: the tensor, for errors.

    Raises:
        CheckpointError: a row holds NaN or infinity, which no scale represents.
    """
    outputs, inputs = rows.shape
    step = max(1, _SLICE_ELEMENTS // max(1, inputs))
    for start in range(0, outputs if inputs else 0, step):
        part = slice(start, start + step)
        wide = rows[part].float()  # [n, K]; a copy unless it was fp32
        low, high = wide.aminmax(dim=1)
        largest = torch.maximum(-low, high)  # [n]
        if not bool(largest.isfinite().all()):
            row = start + int((~largest.isfinite()).nonzero()[0])
            raise CheckpointError(
                f"Tensor {name!r} holds NaN or infinity in row {row}, which int8 cannot represent. "
                "Leave its module out with plugins.options quantization.int8 skip, or repair the checkpoint."
            )
        scale = torch.where(largest > 0, largest / LARGEST, 1.0).clamp_min(torch.finfo(torch.float32).tiny)
        scales[part] = scale
        codes[part] = (wide / scale.unsqueeze(1)).round_()
    if not inputs:
        scales.fill_(1.0)
