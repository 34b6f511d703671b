"""What a step that verifies drafts costs beside one that does not, learned from the steps' own times.

A plain step of S sequences takes b(S), the median of the last few. One with D drafts, in which K were asked
for, takes b(S) (1 + fixed + row D / S + ask K / S): three numbers, for each range of S its own, followed by a
Kalman filter (Kalman 1960), which also tells how far they are to be trusted. They are ratios, and hold when
contexts grow or another model is loaded elsewhere on the machine.

Knows numbers. Must never look at a clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median, quantiles

__all__ = ["Cost", "StepCost"]

_RECENT = 15
"""Plain steps whose median is b(S)."""
_FEW = 4
"""Times from which on their median and their spread say something."""
_MEDIAN_ERROR = 0.93
"""A median's standard error, for normal numbers, is this times their quartiles' distance over sqrt(n)."""
_FAR = 0.25
"""b(S) of another S counts if it is no farther off than this, as a share of S."""
_PRIOR = (0.0, 0.5, 0.0)
"""Before anything is known: rows cost half of what they would if computing were all there is to a step."""
_PRIOR_VARIANCE = (0.3**2, 0.5**2, 0.05**2)
_DRIFT = (1e-5, 1e-4, 1e-5)
"""Variance that a step adds."""
_NOISE = 0.05**2
"""Variance of a step's time, as a share of it."""
_OUTLIER = 3.0
"""Standard deviations beyond which a surprise counts no further: a pause of the machine is not a cost."""


@dataclass(slots=True)
class Cost:
    """Of drafts at some number of sequences, as shares of a plain step's time.

    Attributes:
        weights: `fixed`, `row` and `ask`.
        covariance: of them, 3 x 3.
    """

    weights: list[float] = field(default_factory=lambda: list(_PRIOR))
    covariance: list[list[float]] = field(
        default_factory=lambda: [
            [v if i == j else 0.0 for j in range(3)] for i, v in enumerate(_PRIOR_VARIANCE)
        ]
    )

    def of(self, drafts: float, asked: float) -> float:
        """Expected, for a number of drafts and of those asked for, each per sequence."""
        fixed, row, ask = self.weights
        return fixed + row * drafts + ask * asked

    def at_worst(self, drafts: float, asked: float) -> float:
        """The same, a standard deviation worse."""
        x = (1.0, drafts, asked)
        return self.of(drafts, asked) + math.sqrt(self._variance(x)[0])

    def learn(self, drafts: float, asked: float, excess: float) -> None:
        """A step took `excess` more than a plain one."""
        x = (1.0, drafts, asked)
        for i, drift in enumerate(_DRIFT):
            self.covariance[i][i] += drift
        variance, px = self._variance(x)
        variance += _NOISE
        bound = _OUTLIER * math.sqrt(variance)
        surprise = excess - sum(w * f for w, f in zip(self.weights, x, strict=True))
        surprise = min(max(surprise, -bound), bound)
        for i in range(3):
            # None is below zero: else one that is too high would be made up for by another, and both stay.
            self.weights[i] = max(0.0, self.weights[i] + px[i] / variance * surprise)
            for j in range(3):
                self.covariance[i][j] -= px[i] * px[j] / variance

    def _variance(self, x: tuple[float, float, float]) -> tuple[float, list[float]]:
        px = [sum(c * f for c, f in zip(row, x, strict=True)) for row in self.covariance]
        return max(0.0, sum(p * f for p, f in zip(px, x, strict=True))), px


class StepCost:
    """Follows the times of decode steps."""

    def __init__(self) -> None:
        self._plain: dict[int, deque[float]] = {}
        self._median: dict[int, float] = {}
        self._costs: dict[int, Cost] = {}

    def learn(
        self, sequences: int, drafts: int, asked: int, seconds: float, *, steady: bool = True
    ) -> float | None:
        """Take in a step's time; its excess over a plain one, None if that is not known.

        Args:
            sequences, drafts, asked: what it had.
            seconds: its time.
            steady: it had no drafts, or its time says what the next ones cost.
        """
        if not drafts and not asked:
            times = self._plain.setdefault(sequences, deque(maxlen=_RECENT))
            times.append(seconds)
            self._median.pop(sequences, None)
            return 0.0
        plain = self.plain(sequences)
        if plain is None:
            return None
        excess = seconds / plain - 1
        if steady:
            self.of(sequences).learn(drafts / sequences, asked / sequences, excess)
        return excess

    def plain(self, sequences: int) -> float | None:
        """Seconds of a plain step; None if there were too few of about as many sequences."""
        near = self._near(sequences)
        if near is None:
            return None
        if (found := self._median.get(near)) is None:
            found = self._median[near] = median(self._plain[near])
        return found

    def doubt(self, sequences: int) -> float:
        """Standard error of `plain`, as a share of it."""
        near, middle = self._near(sequences), self.plain(sequences)
        if near is None or middle is None:
            return 0.0
        first, _, third = quantiles(self._plain[near], n=4)
        return _MEDIAN_ERROR * (third - first) / (middle * math.sqrt(len(self._plain[near])))

    def settled(self, sequences: int) -> bool:
        """Whether `plain` is of as many times as it will ever be."""
        near = self._near(sequences)
        return near is not None and len(self._plain[near]) == _RECENT

    def _near(self, sequences: int) -> int | None:
        """A number of sequences that some plain steps had, this one or one not far off."""
        if len(self._plain.get(sequences, ())) >= _FEW:
            return sequences
        known = (number for number, times in self._plain.items() if len(times) >= _FEW)
        near = min(known, key=lambda other: (abs(other - sequences), other), default=None)
        return None if near is None or abs(near - sequences) > max(1, _FAR * sequences) else near

    def of(self, sequences: int) -> Cost:
        """What drafts cost, at this many sequences."""
        number = sequences.bit_length()
        if (cost := self._costs.get(number)) is None:
            cost = self._costs[number] = Cost()
        return cost
