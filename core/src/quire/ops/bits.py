"""Streams of small integers inside 32-bit words, as files of quantized weights hold them.

Field i of `bits` bits sits at bits [i * bits, (i + 1) * bits) of a little-endian stream of words, so that
fields of 3 bits cross from one word into the next. Knows no file format.
"""

from __future__ import annotations

from math import gcd

import torch

from quire.contracts import Span

WORD_BITS = 32


def covering_words(fields: Span, bits: int) -> tuple[Span, int]:
    """The words that a span of fields lies in.

    Args:
        fields: the fields that are wanted, of all in the stream.
        bits: bits of a field.

    Returns:
        The span of words, and how many bits of its first word come before the first field.
    """
    start = fields.start * bits // WORD_BITS
    words = Span(start, _words(fields.stop * bits), _words(fields.full * bits))
    return words, fields.start * bits - start * WORD_BITS


def unpack_fields(
    words: torch.Tensor, bits: int, count: int, *, dim: int = 0, skip_bits: int = 0
) -> torch.Tensor:
    """The fields of every stream along `dim`.

    Beside the result, memory of a few times the words of one in `32 / gcd(32, bits)` fields is taken.

    Args:
        words: int32; every line along `dim` is one stream.
        bits: 1 to 8.
        count: fields to take.
        dim: the axis that was packed.
        skip_bits: bits before the first field, as `covering_words` gives them.

    Returns:
        uint8, shaped as `words` but `count` long along `dim`.

    Raises:
        ValueError: the words hold fewer fields.
    """
    if words.shape[dim] * WORD_BITS < skip_bits + count * bits:
        raise ValueError(
            f"{words.shape[dim]} words hold no {count} fields of {bits} bits after {skip_bits} bits."
        )
    shape = list(words.shape)
    shape[dim] = count
    fields = torch.empty(shape, dtype=torch.uint8, device=words.device)
    stream, out = words.movedim(dim, 0), fields.movedim(dim, 0)
    # Fields whose numbers differ by `period` sit at the same bit, `stride` words apart.
    period = WORD_BITS // gcd(WORD_BITS, bits)
    stride = period * bits // WORD_BITS
    for first in range(min(period, count)):
        target = out[first::period]  # [n, ...]
        at = skip_bits + first * bits
        word, shift = at // WORD_BITS, at % WORD_BITS
        field = stream[word::stride][: len(target)] >> shift  # the sign's copies are masked away
        inside = WORD_BITS - shift
        if inside < bits:
            field &= (1 << inside) - 1
            field |= stream[word + 1 :: stride][: len(target)] << inside
        field &= (1 << bits) - 1
        target.copy_(field)
    return fields


def _words(bits: int) -> int:
    return -(-bits // WORD_BITS)
