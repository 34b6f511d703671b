"""Counting for the hot path: a histogram whose observations are kept in plain lists between flushes.

`Histogram.observe` takes locks, and between processes writes to files, for every value. With an interval per
token that is more than everything else that is counted; here it costs a search in a short list.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Histogram

FLUSH_EVERY = 1.0
"""Seconds after which what was tallied becomes visible to other processes."""


class BatchHistogram(Histogram):
    """A histogram that takes observations in bulk."""

    def observe_counts(self, counts: Sequence[int], total: float) -> None:
        """Add observations.

        Args:
            counts: how many in each bucket, the one without a bound last.
            total: their sum.
        """
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(total)


class Tally:
    """Values on their way into a histogram of the same buckets. Not thread-safe: one event loop's."""

    __slots__ = ("_bounds", "_counts", "_flushed", "_histogram", "_total")

    def __init__(
        self, name: str, help_text: str, bounds: tuple[float, ...], registry: CollectorRegistry
    ) -> None:
        self._bounds = bounds
        self._histogram = BatchHistogram(name, help_text, buckets=bounds, registry=registry)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._flushed = 0.0

    def add(self, value: float, now: float) -> None:
        """Count a value.

        Args:
            value: in the histogram's unit.
            now: `time.monotonic()`, which the caller has at hand.
        """
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value
        if now - self._flushed > FLUSH_EVERY:
            self._flushed = now
            self.flush()

    def flush(self) -> None:
        """Hand over what was counted since the last time."""
        counts, total = self._counts, self._total
        self._counts, self._total = [0] * len(counts), 0.0
        self._histogram.observe_counts(counts, total)
