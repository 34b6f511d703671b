"""The orders in which AWQ's words hold their 4-bit fields. Knows bits and orders; no layers, no files.

The layouts are those of AutoAWQ's modules `WQLinear_GEMM`, `WQLinear_GEMV` and `WQLinear_GEMVFast`. The
method: Lin et al., AWQ, 2023, https://arxiv.org/abs/2306.00978.
"""

from __future__ import annotations

import torch

from quire.ops.bits import unpack_fields

BITS = 4

WORD = 8
"""Fields in a word of 32 bits."""

FIELD_OF_COLUMN = (0, 4, 1, 5, 2, 6, 3, 7)
"""gemm: which field of a word holds each of its eight columns."""

ROWS = 4
"""gemv_fast: outputs whose fields are interleaved."""

STRIDE = 64
"""gemv_fast: inputs of one output that lie together before the next output's."""


def columns(words: torch.Tensor) -> torch.Tensor:
    """gemm: what words hold that are packed along the outputs.

    Args:
        words: `[R, W]` int32, of weights or of zeros.

    Returns:
        `[R, 8 W]` uint8, the columns in their natural order.
    """
    found = torch.empty(*words.shape, WORD, dtype=torch.uint8, device=words.device)
    for column, field in enumerate(FIELD_OF_COLUMN):
        # The sign's copies, which a shift brings in, are masked away.
        found[..., column] = (words >> (BITS * field)) & ((1 << BITS) - 1)
    return found.flatten(1)


def interleaved(words: torch.Tensor) -> torch.Tensor:
    """gemv_fast: what words of 16 bits hold, four outputs interleaved.

    A stretch of 64 words holds 64 inputs of 4 outputs, output by output, 4 fields to a word. Of an output's
    64 fields, field `32 b + 8 g + u` is input `32 b + 8 (u % 4) + 2 g + u // 4`: as the kernel's registers
    want them.

    Args:
        words: `[N / 4, K]` int16, K a multiple of 64.

    Returns:
        `[N, K]` uint8, outputs and inputs in their natural order.
    """
    outputs, inputs = words.shape[0] * ROWS, words.shape[1]
    pairs = words.contiguous().view(torch.int32)  # the stream is little-endian: the same fields in order
    fields = unpack_fields(pairs, BITS, ROWS * inputs, dim=1)  # [N / 4, 4 K]
    # Digits of a field's place: stretch, output, b, g, u // 4, u % 4;
    # of its input: stretch, b, u % 4, g, u // 4.
    digits = fields.reshape(-1, inputs // STRIDE, ROWS, 2, 4, 2, 4)
    return digits.permute(0, 2, 1, 3, 6, 4, 5).reshape(outputs, inputs)


def zeros_of_products(products: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """gemv_fast: zero points from what the file holds in their place.

    Args:
        products: `[G, N]` float, `-(scale * zero)`, rounded to the file's dtype.
        scales: `[G, N]` float.

    Returns:
        `[G, N]` fp32, no integers: `scale * zero` is the file's product to within fp32's rounding.
    """
    # A scale of zero makes every weight zero, whatever its zero point.
    return torch.where(scales == 0, 0.0, -products.float() / scales.float())
