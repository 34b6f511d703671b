"""The arithmetic of a sliding window over blocks: which are still seen, and how many that makes.

Knows tokens and blocks as numbers. Must never know a pool, a request or a device.

A window counts tokens, of which the query's own is one; None stands for full attention, whose queries see
all there is.
"""

from __future__ import annotations

__all__ = ["first_block", "longest_sequence", "span", "window_quota"]


def first_block(num_tokens: int, window: int | None, block_size: int) -> int:
    """Number of the first block that a query at position `num_tokens`, or at a later one, may see."""
    return 0 if window is None else max(0, num_tokens - window + 1) // block_size


def span(num_tokens: int, block_size: int) -> int:
    """Most blocks that `num_tokens` tokens in a row (at least 1) can lie in, wherever they begin."""
    return (num_tokens - 2) // block_size + 2


def window_quota(window: int, step_tokens: int, block_size: int) -> int:
    """Blocks that a sequence needs at a time when it computes up to `step_tokens` tokens a step."""
    return span(window - 1 + step_tokens, block_size)


def longest_sequence(usable: int, window: int | None, block_size: int) -> int | None:
    """Tokens of the longest sequence that `usable` blocks can serve; None if there is no such bound.

    A pool that holds a whole window wherever it begins serves any length, if need be a token a step.
    """
    endless = window is not None and usable >= span(window, block_size)
    return None if endless else usable * block_size
