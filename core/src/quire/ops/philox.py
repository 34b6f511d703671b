"""The random stream of sampling: uniforms from a counter-based generator, on the host.

A request's number at a position depends on its seed, that position and the purpose alone: not on
the batch, the slot, the step, or how often it was preempted. numpy only; no tensors, no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAW", "philox4x32", "uniforms", "words"]

DRAW = 0
"""Purpose of the number that picks a token. Whoever needs further numbers at a position takes another."""

# Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10

Words = NDArray[np.uint64]


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, ...]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four arrays `[R]` uint64, each below 2**32.
        key: two arrays `[R]` uint64, each below 2**32.

    Returns:
        Four arrays `[R]` uint64 below 2**32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # 32 x 32 -> 64 bits
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def uniforms(
    seeds: NDArray[np.uint64], positions: Sequence[int] | NDArray[Any], purpose: int = DRAW
) -> NDArray[np.float64]:
    """One number in [0, 1) per row, with 53 random bits.

    Args:
        seeds: `[R]` uint64.
        positions: `[R]` non-negative integers below 2**63.
        purpose: 0 .. 2**32 - 1.

    Returns:
        `[R]` float64.
    """
    high, low = _words(seeds, positions, purpose)
    bits = ((high << _HALF) | low) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def words(
    seeds: NDArray[np.uint64], positions: Sequence[int] | NDArray[Any], purpose: int = DRAW
) -> NDArray[np.int64]:
    """The same randomness as two numbers of 32 bits per row, `[R, 2]`: a key for whoever needs more of it."""
    return np.stack(_words(seeds, positions, purpose), axis=1).astype(np.int64)


def _words(
    seeds: NDArray[np.uint64], positions: Sequence[int] | NDArray[Any], purpose: int
) -> tuple[Words, Words]:
    where = np.asarray(positions, dtype=np.int64).astype(np.uint64)
    zero = np.zeros_like(where)
    high, low, _, _ = philox4x32(
        (where & _LOW, where >> _HALF, zero + np.uint64(purpose), zero), (seeds & _LOW, seeds >> _HALF)
    )
    return high, low
