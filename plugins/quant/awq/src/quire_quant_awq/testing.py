"""Writes the three layouts, field by field: slow, and by their published description alone. For tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from quire.contracts import TensorHeader

Integers = npt.NDArray[np.int64]

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""gemm: the column that each field of a word holds."""

PADDING = {64: 2, 32: 4}
"""gemv and gemv_fast: the words of zeros come in multiples of this; of 1 for other group sizes."""


def words(fields: Integers, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """`[R, 8 W]` -> `[R, W]` int32: field i of a word is element `order[i]` of its eight."""
    rows, count = fields.shape
    out = np.zeros((rows, count // 8), dtype=np.uint32)
    for column in range(count // 8):
        for place, element in enumerate(order):
            out[:, column] |= (fields[:, 8 * column + element] << (4 * place)).astype(np.uint32)
    return torch.from_numpy(out.view(np.int32))


def padded(values: torch.Tensor, group_size: int) -> torch.Tensor:
    """`[N, G]` -> `[N, 8 W]`, zeros behind."""
    words_of_8 = -(-values.shape[1] // 8)
    multiple = PADDING.get(group_size, 1)
    width = 8 * -(-words_of_8 // multiple) * multiple
    return torch.nn.functional.pad(values, (0, width - values.shape[1]))


def pack_gemm(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    """Codes `[K, N]`, zeros and scales `[G, N]`."""
    return {
        "qweight": words(codes.long().numpy(), ORDER),
        "qzeros": words(zeros.long().numpy(), ORDER),
        "scales": scales.half(),
    }


def pack_gemv(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    """Codes `[K, N]`, zeros and scales `[G, N]`."""
    group_size = codes.shape[0] // scales.shape[0]
    return {
        "qweight": words(codes.t().long().numpy()),
        "qzeros": words(padded(zeros.t().long(), group_size).numpy()),
        "scales": padded(scales.t().half(), group_size),
    }


def pack_gemv_fast(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    """Codes `[K, N]`, zeros and scales `[G, N]`."""
    inputs, outputs = codes.shape
    out = np.zeros((outputs // 4, inputs), dtype=np.uint16)
    values = codes.t().long().numpy()
    for output in range(outputs):
        line = np.concatenate([_registers(part) for part in values[output].reshape(-1, 32)])  # [K]
        for index, value in enumerate(line):
            stretch, within = divmod(index, 64)
            # Four outputs' 64 fields follow one another in 64 words of 4 fields.
            word, place = divmod((output % 4) * 64 + within, 4)
            out[output // 4, stretch * 64 + word] |= np.uint16(value << (4 * place))
    group_size = inputs // scales.shape[0]
    half = scales.half()
    products = -(half.float() * zeros.float()).half()
    return {
        "qweight": torch.from_numpy(out.view(np.int16)),
        "qzeros": padded(products.t(), group_size).t().contiguous(),
        "scales": padded(half.t(), group_size).t().contiguous(),
    }


def _registers(part: Integers) -> Integers:
    """32 inputs in the order a warp reads them: pairs of four rows of eight, then evens before odds."""
    pairs = [part[8 * row + 2 * column + i] for column in range(4) for row in range(4) for i in range(2)]
    eights = [pairs[8 * eight : 8 * eight + 8] for eight in range(4)]
    return np.array([value for eight in eights for value in (*eight[0::2], *eight[1::2])])


PACKERS = {"gemm": pack_gemm, "gemv": pack_gemv, "gemv_fast": pack_gemv_fast}

_DTYPES = {torch.int16: "I16", torch.int32: "I32", torch.float16: "F16", torch.float32: "F32"}


def headers_of(module: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorHeader]:
    """As a checkpoint would describe a module's tensors, by suffix."""
    return {
        f"{module}.{suffix}": TensorHeader(_DTYPES[tensor.dtype], tuple(tensor.shape), "model.safetensors")
        for suffix, tensor in tensors.items()
    }


@dataclass(frozen=True, slots=True)
class Quantized:
    """A matrix in 4 bits, before it is packed.

    Attributes:
        codes: `[K, N]` int64.
        zeros: `[G, N]` int64.
        scales: `[G, N]` fp32 with the values of fp16.
    """

    codes: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor

    def weight(self) -> torch.Tensor:
        """`[N, K]` fp32, what it stands for."""
        each = self.codes.shape[0] // self.scales.shape[0]
        zeros, scales = (part.repeat_interleave(each, 0) for part in (self.zeros, self.scales))
        return ((self.codes - zeros) * scales).t()


def quantize(weight: torch.Tensor, group_size: int) -> Quantized:
    """Round `[N, K]` to the nearest of 16 values per group of inputs, zero among them."""
    outputs, inputs = weight.shape
    size = inputs if group_size == -1 else group_size
    groups = weight.float().t().reshape(-1, size, outputs)  # [G, size, N]
    low, high = groups.amin(1).clamp_max(0), groups.amax(1).clamp_min(0)
    scales = ((high - low) / 15).clamp_min(1e-4).half().float()
    zeros = (-low / scales).round().clamp(0, 15).long()
    codes = (groups / scales.unsqueeze(1)).round().long() + zeros.unsqueeze(1)
    return Quantized(codes.clamp(0, 15).reshape(inputs, outputs), zeros, scales)
