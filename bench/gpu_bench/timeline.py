"""When the device worked and when it had nothing to do, read off the profiler's timeline.

The profiler notes begin and end of every kernel and copy on the device (CUPTI), those inside of graphs too.
It costs the host some time for each launch, so that what it finds idle is an upper bound.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

WAITING_US = 5.0
"""Kernels of one graph follow each other within a microsecond or two; a longer gap is the host's."""

FROM, TO = 0.4, 0.9
"""The part of the timeline that counts: neither the first steps, with the prompts', nor the last."""

ON_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
ON_HOST = frozenset({"cpu_op"})


@dataclass(frozen=True, slots=True)
class Idleness:
    """Shares of the time.

    Attributes:
        waiting: in gaps of `WAITING_US` or more.
        gaps: in all gaps.
    """

    waiting: float
    gaps: float


class Timeline:
    """One recording."""

    def __init__(self, device: str) -> None:
        cuda = device == "cuda"
        self._activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
        self._kinds = ON_DEVICE if cuda else ON_HOST
        self._spans: list[tuple[float, float]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what happens inside."""
        with profile(activities=[self._activity]) as profiler:
            yield
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(file))
            self._spans = spans(json.loads(file.read_text()), self._kinds)

    def idleness(self) -> Idleness:
        """Of the recording.

        Raises:
            RuntimeError: the profiler saw nothing on the device.
        """
        return idleness(self._spans)


def spans(trace: dict[str, Any], kinds: Iterable[str]) -> list[tuple[float, float]]:
    """Begin and end in microseconds of the events of these categories, by begin."""
    events = [event for event in trace["traceEvents"] if event.get("cat") in kinds and "dur" in event]
    return sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in events)


def idleness(busy: list[tuple[float, float]]) -> Idleness:
    """Of spans of work, which may overlap, by begin; between `FROM` and `TO` of the whole."""
    if not busy:
        raise RuntimeError("The profiler saw no work on the device: is CUPTI usable here?")
    first, last = busy[0][0], max(end for _, end in busy)
    start, stop = (first + share * (last - first) for share in (FROM, TO))
    ends = itertools.accumulate((end for _, end in busy), max)
    gaps = [
        max(0.0, min(following, stop) - max(end, start))
        for end, (following, _) in zip(ends, busy[1:], strict=False)
    ]
    whole = stop - start
    waiting = sum(gap for gap in gaps if gap >= WAITING_US)
    return Idleness(waiting=waiting / whole, gaps=sum(gaps) / whole)
