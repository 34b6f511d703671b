"""`PackedWords`: weights of 2 to 8 bits as the kernels of `wna16` read them. Knows tensors, and no kernel.

Rows lie in order of their groups, and in tiles of 16 times the codes of a word: 128 rows of nibbles (2, 3 and
4 bits), 64 of bytes. Word r of a tile holds rows r, r + 16, r + 32 ... of it, from its low bits up. So a tile
is 16 rows of words, outputs contiguous; one shift of all of them gives 16 consecutive rows of the weight,
which is the inner dimension of one matrix instruction; and they meet 16 consecutive columns of x.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quire.contracts import QuantizedWeight

SLICE = 16
"""Rows that one shift of a tile's words gives."""

NIBBLE, BYTE = 4, 8


@dataclass(frozen=True, slots=True)
class PackedWords:
    """`w = scale * (code - centre - zero)` with centre 8 for nibbles and 128 for bytes.

    Attributes:
        words: `[T * 16, N]` int32 of T tiles.
        scales: `[G, N]` float, one row for each `group` rows; the last may cover fewer.
        zeros: `[G, N]` less the centre: int8 where all are such integers, else fp32; None if all are zero.
        columns: `[T * rows of a tile]` int32, x's column of each row, -1 for a row that is none; None if
            row k is column k.
        bias: `[N]` or None.
        bits: of a code in its word, 4 or 8.
        group: rows of a scale: a multiple of a tile's rows, or a power of two from 16 to these.
        inputs: K, columns of x.
    """

    words: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    columns: torch.Tensor | None
    bias: torch.Tensor | None
    bits: int
    group: int
    inputs: int

    @property
    def outputs(self) -> int:
        """N."""
        return self.words.shape[1]

    @property
    def tiles(self) -> int:
        """T."""
        return self.words.shape[0] // SLICE

    @property
    def nbytes(self) -> int:
        """Memory held."""
        held = (self.words, self.scales, self.zeros, self.columns, self.bias)
        return sum(tensor.nbytes for tensor in held if tensor is not None)


@dataclass(frozen=True, slots=True)
class _Order:
    """Rows in the order of their groups.

    Attributes:
        rows: `[K']` int64 in the file's numbering, -1 for a row that fills its group up.
        group: rows of a scale.
        scales: `[K' / group]` int64, the row of scales of each.
    """

    rows: torch.Tensor
    group: int
    scales: torch.Tensor


def pack(weight: QuantizedWeight) -> PackedWords:
    """Codes into words. Waits for the device: for loading, not for steps.

    Groups of equal size that divide into 16 rows stay as they are. All others are filled up to multiples of
    16 rows, and scales repeated, so that kernels know groups of one size alone.
    """
    bits = NIBBLE if weight.bits <= NIBBLE else BYTE
    in_tile = SLICE * (32 // bits)
    order = _order(weight, in_tile)
    inputs, outputs = weight.codes.shape
    missing = -len(order.rows) % in_tile
    rows = torch.nn.functional.pad(order.rows, (0, missing), value=-1)  # [T * in_tile]
    signed = weight.codes.dtype == torch.int8
    codes = weight.codes.view(torch.uint8) ^ 128 if signed else weight.codes
    words = torch.zeros(len(rows) // in_tile, SLICE, outputs, dtype=torch.int32, device=codes.device)
    for place, part in enumerate(rows.view(-1, 32 // bits, SLICE).unbind(1)):
        taken = codes[part.clamp_min(0).flatten()].view_as(words)  # [T, 16, N]
        words |= taken.int() << (place * bits)
    filled = missing if order.group >= in_tile else missing // order.group
    which = order.scales if order.group >= in_tile else torch.nn.functional.pad(order.scales, (0, filled))
    plain = torch.arange(len(rows), device=rows.device)
    natural = bool(((rows == plain) | (plain >= inputs)).all())
    return PackedWords(
        words=words.flatten(0, 1),
        scales=weight.scales[which].contiguous(),
        zeros=_zeros(weight, bits, signed, which),
        columns=None if natural else rows.int(),
        bias=weight.bias,
        bits=bits,
        group=order.group,
        inputs=inputs,
    )


def _order(weight: QuantizedWeight, in_tile: int) -> _Order:
    inputs, groups, device = weight.codes.shape[0], weight.scales.shape[0], weight.codes.device
    if groups == 1:
        whole = -(-max(inputs, 1) // in_tile) * in_tile
        return _Order(
            torch.arange(inputs, device=device), whole, torch.zeros(1, dtype=torch.int64, device=device)
        )
    if weight.group_index is None:
        index = torch.arange(inputs, device=device) // (inputs // groups)
    else:
        index = weight.group_index.long()
    sizes = torch.bincount(index, minlength=groups)  # [G]
    rows = index.argsort(stable=True)
    own = torch.arange(groups, device=device)
    size = int(sizes[0])
    if size % SLICE == 0 and bool((sizes == size).all()):
        group = size if size % in_tile == 0 else _power_of_two(size, in_tile)
        return _Order(rows, group, own.repeat_interleave(size // group))
    filled = (sizes + SLICE - 1) // SLICE * SLICE
    begins = filled.cumsum(0) - filled - (sizes.cumsum(0) - sizes)  # what is filled before each group
    spread = torch.full((int(filled.sum()),), -1, device=device)
    spread[torch.arange(inputs, device=device) + begins[index[rows]]] = rows
    return _Order(spread, SLICE, own.repeat_interleave(filled // SLICE))


def _power_of_two(size: int, most: int) -> int:
    """The largest power of two that divides size, `most` at most."""
    return min(size & -size, most)


def _zeros(weight: QuantizedWeight, bits: int, signed: bool, which: torch.Tensor) -> torch.Tensor | None:
    """Zero points less the centre, of each row of packed scales."""
    centre = 1 << (bits - 1)
    if weight.zeros is None:
        if signed:
            return None
        zeros = torch.zeros_like(weight.scales, dtype=torch.float32)
    else:
        zeros = weight.zeros.float()
    zeros = zeros - centre
    if not bool(zeros.any()):
        return None
    narrow = zeros.clamp(-128, 127).to(torch.int8)
    return (narrow if torch.equal(narrow.float(), zeros) else zeros)[which].contiguous()
