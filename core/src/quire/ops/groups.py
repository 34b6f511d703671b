"""Rows of a weight that share scales: which groups a worker's inputs touch, and rows out of order.

Knows indices; knows no file format.
"""

from __future__ import annotations

import torch

from quire.contracts import Span


def covering_groups(inputs: Span, size: int) -> tuple[Span, torch.Tensor | None]:
    """The groups of `size` consecutive inputs that a span of inputs touches; the axis's last may be shorter.

    Args:
        inputs: this worker's inputs, of all.
        size: inputs per group, at least 1.

    Returns:
        The span of groups, and `[inputs.size]` int32, each input's group counted from the first of them; None
        in its place if these groups are equal parts of the inputs.
    """
    groups = Span(inputs.start // size, -(-inputs.stop // size), -(-inputs.full // size))
    if groups.size == 1 or (inputs.start % size == 0 and inputs.size % size == 0):
        return groups, None
    index = torch.arange(inputs.start, inputs.stop, dtype=torch.int32) // size - groups.start
    return groups, index


def rows_by_group(index: torch.Tensor) -> torch.Tensor | None:
    """An order of the rows in which groups are contiguous, `[K]` int64; None if they are already.

    Args:
        index: `[K]`, the group of each row.
    """
    if bool((index[1:] >= index[:-1]).all()):
        return None
    return index.argsort(stable=True)
