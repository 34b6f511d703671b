"""The race is a fair one, and like distributions have mostly the same winner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels
from quire.ops.coupling import exponentials
from quire.ops.philox import uniforms, words

KERNELS = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
DRAWS = 40_000


def keys(seed: int, count: int = DRAWS) -> torch.Tensor:
    """Of as many positions of one request."""
    return torch.from_numpy(words(np.full(count, seed, dtype=np.uint64), np.arange(count)))


def some_logits(seed: int, width: int, spread: float) -> torch.Tensor:
    return spread * torch.randn(width, generator=torch.Generator().manual_seed(seed))


def draw(logits: torch.Tensor, seed: int) -> torch.Tensor:
    """Some hundred at a time: numbers for all of them would not fit a processor's cache."""
    parts = torch.split(keys(seed), 500)
    return torch.cat([KERNELS.draw_coupled(logits.expand(len(part), -1), part) for part in parts])


@pytest.mark.parametrize(("width", "spread"), [(2, 0.5), (40, 1.0), (700, 2.0)])
def test_tokens_are_drawn_from_the_distribution(width: int, spread: float) -> None:
    logits = some_logits(width, width, spread)
    logits[0] = -torch.inf
    counts = draw(logits, 3).bincount(minlength=width).double()
    assert counts[0] == 0
    expected = logits.double().softmax(-1) * DRAWS
    often = expected > 5
    chi_square = float(((counts - expected)[often] ** 2 / expected[often]).sum())
    freedom = int(often.sum()) - 1
    assert chi_square < freedom + 4.5 * (2 * freedom) ** 0.5 + 4


@pytest.mark.parametrize("noise", [0.0, 0.2, 1.0, 3.0])
def test_like_distributions_agree_as_often_as_they_can(noise: float) -> None:
    logits = some_logits(1, 100, 2.0)
    other = logits + noise * some_logits(2, 100, 1.0)
    distance = float((logits.softmax(-1) - other.softmax(-1)).abs().sum()) / 2
    agreeing = float((draw(logits, 9) == draw(other, 9)).double().mean())
    assert agreeing >= (1 - distance) / (1 + distance) - 0.01
    assert agreeing <= 1 - distance + 0.01  # what no way of drawing exceeds
    uniform = torch.from_numpy(uniforms(np.full(DRAWS, 9, dtype=np.uint64), np.arange(DRAWS)))
    inverted = [KERNELS.draw_from(one.expand(DRAWS, -1), uniform) for one in (logits, other)]
    assert agreeing >= float((inverted[0] == inverted[1]).double().mean())


def test_a_row_depends_on_its_own_key_alone() -> None:
    some = keys(4, 9)
    whole = exponentials(some, 33)
    assert torch.equal(exponentials(some[5:6], 33), whole[5:6])
    assert torch.equal(exponentials(some, 20), whole[:, :20])
    assert len({row.tobytes() for row in whole.numpy()}) == 9


def test_lots_are_exponential_and_independent() -> None:
    lots = exponentials(keys(7, 2000), 500)
    assert float(lots.min()) > 0
    assert float(lots.mean()) == pytest.approx(1, abs=0.005)
    assert float((lots > 3).double().mean()) == pytest.approx(np.exp(-3), rel=0.03)
    assert float((lots < 0.001).double().mean()) == pytest.approx(0.001, rel=0.15)
    centred = lots - lots.mean()
    for shift in (1, 2, 17):
        assert abs(float((centred[:, shift:] * centred[:, :-shift]).mean())) < 0.006
        assert abs(float((centred[shift:] * centred[:-shift]).mean())) < 0.006
