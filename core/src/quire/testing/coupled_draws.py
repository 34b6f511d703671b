"""The part of `KernelsSuite` that holds draws by a race to the reference's lots.

Lots are integers up to their logarithm, so kernels have the reference's winner but where two tokens arrive
at the same time up to rounding: who is drawn may be later than the reference's first by `LATE` at most.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.ops import Kernels
from quire.ops.coupling import exponentials
from quire.ops.philox import words

LATE = 1e-5
"""Relative: what some roundings of fp32 may make of a token's time, its lot over its probability."""

ROWS = 12
KEPT = 41


class CoupledDrawChecks:
    """Mixed into `KernelsSuite`."""

    @pytest.mark.parametrize("vocab", [1, 75, 5003])
    def test_coupled_draws_are_the_references(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype], vocab: int
    ) -> None:
        keys = keys_of(ROWS)
        logits = 2 * torch.randn(ROWS, vocab)
        logits[::2, : vocab // 3] = -torch.inf
        for dtype in each_dtype:
            narrow = logits.to(device, dtype)
            ids = kernels.draw_coupled(narrow, keys)
            assert (ids.dtype, ids.shape) == (torch.int64, (ROWS,))
            times = exponentials(keys, vocab).double() / narrow.cpu().double().softmax(-1)
            drawn = times.gather(1, ids.cpu().unsqueeze(1)).squeeze(1)
            assert bool((drawn <= times.amin(1) * (1 + LATE)).all())

    def test_coupled_draws_depend_on_neither_neighbours_nor_bad_rows(
        self, kernels: Kernels, device: str
    ) -> None:
        keys, clean = keys_of(ROWS), 2 * torch.randn(ROWS, 2050, device=device)
        ids = kernels.draw_coupled(clean, keys)
        dirty = clean.clone()
        dirty[0, 9], dirty[1], dirty[2] = torch.nan, torch.nan, -torch.inf
        found = kernels.draw_coupled(dirty, keys)
        assert bool(((found >= 0) & (found < 2050)).all())
        assert found[3:].tolist() == ids[3:].tolist()
        for i in (0, 7):
            one = slice(i, i + 1)
            assert kernels.draw_coupled(clean[one], keys[one]).tolist() == ids[one].tolist()
        assert kernels.draw_coupled(clean[:0], keys[:0]).shape == (0,)

    @pytest.mark.parametrize("top", [0.0, -3.0e38, 3.0e38])
    def test_coupled_draws_never_draw_what_is_excluded(
        self, kernels: Kernels, device: str, top: float
    ) -> None:
        """However much later than all others whoever is left arrives: the greatest lot, too, is a number."""
        logits = torch.full((2, KEPT + 3), -torch.inf, device=device)
        logits[:, KEPT] = top
        logits[0, KEPT + 1] = top - 150.0  # less likely than fp32 tells
        ids = kernels.draw_coupled(logits, torch.cat((keys_of(1), latest_key(KEPT))))
        assert ids[0] in ((KEPT, KEPT + 1) if abs(top) > 1 else (KEPT,))
        assert ids[1] == KEPT


def keys_of(rows: int) -> torch.Tensor:
    """Keys of as many positions of one request, `[rows, 2]`."""
    return torch.from_numpy(words(np.full(rows, 7, dtype=np.uint64), np.arange(rows)))


def latest_key(column: int) -> torch.Tensor:
    """A key by which the number of a column is the greatest of all, `[1, 2]`.

    The mixing of its first word is undone by search, step by step from the greatest number.
    """
    mask = 0xFFFFFFFF

    def undone(number: int) -> int:
        for shift, factor in ((15, 0x735A2D97), (15, 0x21F0AAAD), (16, 1)):
            bits = number
            for _ in range(32 // shift + 1):
                bits = number ^ (bits >> shift)
            number = bits * pow(factor, -1, 1 << 32) & mask
        return number

    second = 0x12345678
    first = undone(undone(mask) ^ second) - column * 0x9E3779B1 & mask
    return torch.tensor([[first, second]])
