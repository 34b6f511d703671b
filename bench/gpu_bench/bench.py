"""What every part is given: the device and its clock, the limits, how long it may take, where rows go."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice

import torch

from gpu_bench.record import Label, Row
from gpu_bench.roofline import Limits

WARM_UP = 3
HOST_CACHE = 1 << 20
"""Where there is no GPU, and times do not matter."""


@dataclass(slots=True)
class Bench:
    """The surroundings of a part.

    Attributes:
        device: "cuda" or "cpu".
        toy: small numbers everywhere, to try the benchmark itself.
        limits: of the device, None if they could not be measured.
        budget: seconds for a part, by its own look at the clock.
        sink: gets every row at once, so that none is lost with what comes later.
    """

    device: str
    toy: bool
    limits: Limits | None
    budget: float
    sink: Callable[[Row], None]
    _begun: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """A part begins: its time runs."""
        self._begun = time.perf_counter()

    @property
    def late(self) -> bool:
        """Whether the part's time is over."""
        return time.perf_counter() - self._begun > self.budget

    def row(
        self, labels: dict[str, Label], figures: Mapping[str, float | None] | None = None, note: str = ""
    ) -> None:
        """Hand a row over; figures that are None are left out."""
        known = {name: value for name, value in (figures or {}).items() if value is not None}
        self.sink(Row(labels=labels, figures=known, note=note))

    def share(self, seconds: float, nbytes: float, flops: float = 0.0) -> float | None:
        """Of the least time, if the limits are known."""
        return None if self.limits is None else self.limits.share(seconds, nbytes, flops)

    @property
    def cache_bytes(self) -> int:
        """Of the device's last cache."""
        if self.device != "cuda":
            return HOST_CACHE
        return int(torch.cuda.get_device_properties(0).L2_cache_size)

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def median_seconds(self, works: list[Callable[[], object]], rounds: int) -> float:
        """Median time of one work, taken in turns: several on data of their own keep out of the cache.

        On a GPU between two events on its stream: what the host takes to launch counts only where the
        device waits for it.
        """
        turns = cycle(works)
        for work in islice(turns, max(WARM_UP, len(works))):
            work()
        self.synchronize()
        taken = self._by_events if self.device == "cuda" else _by_clock
        return statistics.median(taken(islice(turns, rounds)))

    def _by_events(self, works: Iterator[Callable[[], object]]) -> list[float]:
        pairs = []
        for work in works:
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()
            work()
            end.record()
            pairs.append((start, end))
        self.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def first_line(error: Exception) -> str:
    """What a note says of an error."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _by_clock(works: Iterator[Callable[[], object]]) -> list[float]:
    times = []
    for work in works:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times
