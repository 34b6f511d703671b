"""An exponential number for each token of a vocabulary, from a key: the lots of a race that tokens run.

The token that arrives first, where token x takes E(x) / p(x), is one drawn from p. Two that race by the same
lots from like distributions p and q have mostly the same winner: with a probability of at least
(1 - d) / (1 + d), d being half the sum of |p - q|. That is the most that can be had where neither knows the
other's distribution (Daliri, Musco and Suresh, "Coupling without communication and drafter-invariant
speculative decoding", 2024). To invert both cumulative distributions at one number does worse: a difference
early in the vocabulary moves all that comes after it.
"""

from __future__ import annotations

import torch

__all__ = ["exponentials"]

_MASK = 0xFFFFFFFF
_STEP = 0x9E3779B1  # odd, so that ids stay apart; near the golden ratio, so that neighbours go far apart


def exponentials(keys: torch.Tensor, width: int) -> torch.Tensor:
    """Independent numbers of mean 1, never 0 and always finite, of 32 random bits each.

    Args:
        keys: `[R, 2]` int64, each below 2**32.
        width: V.

    Returns:
        `[R, V]` fp32. A number depends on its row's key and its column alone.
    """
    low, high = keys.unsqueeze(2).unbind(1)  # [R, 1] each
    bits = torch.arange(width, device=keys.device).mul_(_STEP) + low  # [R, V]
    _mix(bits.bitwise_and_(_MASK))
    _mix(bits.bitwise_xor_(high))
    # 1 - u instead of u, since it is small numbers that win: fp32 tells those apart to the last bit.
    # The greatest bits would round to u = 1, and who is alone in a race would then never arrive.
    return bits.float().add_(0.5).mul_(-(2.0**-32)).clamp_(min=2.0**-24 - 1).log1p_().neg_()


def _mix(bits: torch.Tensor) -> None:
    """A bijection of 32-bit numbers in which each bit depends on all: multiply and shift, in place.

    The constants are those that Hash Prospector (C. Wellons) found to have the least bias of those below
    2**31, whose products do not overflow.
    """
    bits.bitwise_xor_(bits >> 16).mul_(0x21F0AAAD).bitwise_and_(_MASK)
    bits.bitwise_xor_(bits >> 15).mul_(0x735A2D97).bitwise_and_(_MASK)
    bits.bitwise_xor_(bits >> 15)
