"""When requests begin: at random times (an open loop), or as soon as an earlier one ends (a closed one)."""

from __future__ import annotations

import random
from collections.abc import Iterator


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Arrival times of a Poisson process, in seconds from its start, without an end.

    The first request arrives at 0, as a run begins with it; the gaps are exponential with mean 1 / `rate`.

    Args:
        rate: requests per second; `math.inf` lets all arrive at once.
        seed: the same gives the same times.
    """
    draw = random.Random(f"arrivals {seed}")
    now = 0.0
    while True:
        yield now
        now += draw.expovariate(rate)
