"""What kernels over rows of logits share: the order of floats, integer probabilities, shaped logits.

Probabilities are integers: `exp(logit - peak)` in units of `2**-bits`, with bits chosen so that a row's sum
fits 63 of them. Integers add up to the same in any order, so a row may be shared out among programs in
whatever way is fastest, and its token does not depend on that. What is less likely than the most likely
token by a factor of `2**bits` (at least `2**44`, below a vocabulary of 256k) has probability 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from quire_kernels_triton.rows import power_of_two

WIDEST_CHUNK = 2048
"""Logits to a program where a row is shared out: 63 programs for a vocabulary of 128k."""


@triton.jit
def order_key(x):  # type: ignore[no-untyped-def]
    """fp32 -> int32 that ascends with the value: equal zeros, NaN of either sign above everything."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(x != x, 0x7FFFFFFF, key)


@triton.jit
def value_of(key):  # type: ignore[no-untyped-def]
    """int32 -> the fp32 whose `order_key` it is."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def mass(x, peak, scale):  # type: ignore[no-untyped-def]
    """`exp(x - peak)` in units of `1 / scale`, int64; +inf has all of it, NaN and -inf none."""
    below = tl.where(x == peak, 0.0, x - peak)  # inf - inf is 0 here
    part = tl.where(below <= 0.0, tl.exp(below), 0.0)  # NaN is not <= 0
    return tl.where(x == float("-inf"), 0.0, part * scale).to(tl.int64)


@triton.jit
def shaped(x, peak, temperature, margin, SHAPED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Logits over the temperature, -inf where they are further below the peak than min-p allows.

    Unchanged if not SHAPED. `peak` is shaped already; `margin` is the logarithm of min-p.
    """
    if SHAPED:
        x = tl.div_rn(x, temperature)
        x = tl.where(x < peak + margin, float("-inf"), x)
    return x


def chunk_of(vocab: int) -> int:
    """Logits to a program; of the vocabulary alone, so that sums of a chunk do not depend on the batch."""
    return min(WIDEST_CHUNK, power_of_two(vocab))


def mass_scale(vocab: int) -> float:
    """`1 / unit` of a row's masses: the greatest power of two of which `vocab` are below 2**63."""
    return 2.0 ** (62 - max(1, (vocab - 1).bit_length()))
