"""Time by kind: calls are wrapped, and what a call takes besides the wrapped calls inside it is its kind's.

Knows callables and a clock. What the wrappers themselves take is nobody's.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Work = Callable[[tuple[Any, ...], Any], tuple[float, float]]
"""`(arguments, result) -> (bytes moved, floating-point operations)` of a call."""


@dataclass(slots=True)
class Span:
    """What calls of one kind took.

    Attributes:
        seconds: without the wrapped calls inside them.
        calls: how many.
        nbytes, flops: at least so much memory is read and written, and so many operations done.
    """

    seconds: float = 0.0
    calls: int = 0
    nbytes: float = 0.0
    flops: float = 0.0

    def add(self, other: Span) -> None:
        """Take in another's."""
        self.seconds += other.seconds
        self.calls += other.calls
        self.nbytes += other.nbytes
        self.flops += other.flops


class Spans:
    """Collects spans of one thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._spans: defaultdict[str, Span] = defaultdict(Span)
        self._inside: list[float] = []  # per open call: seconds of wrapped calls inside it

    def wrap(self, kind: str, call: Callable[..., Any], work: Work | None = None) -> Callable[..., Any]:
        """The same call, its time kept under `kind`."""
        clock, inside = self._clock, self._inside

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            entered = clock()
            inside.append(0.0)
            start = clock()
            try:
                result = call(*args, **kwargs)
            finally:
                seconds = clock() - start - inside.pop()
                span = self._spans[kind]
                span.seconds += seconds
                span.calls += 1
            if work is not None:
                nbytes, flops = work(args, result)
                span.nbytes += nbytes
                span.flops += flops
            if inside:
                inside[-1] += clock() - entered
            return result

        return timed

    def move(self, source: str, target: str, seconds: float) -> None:
        """Count seconds that were kept under `source` under `target`."""
        self._spans[source].seconds -= seconds
        self._spans[target].seconds += seconds

    def work(self, kind: str, nbytes: float, flops: float) -> None:
        """Add work to a kind without a call."""
        span = self._spans[kind]
        span.nbytes += nbytes
        span.flops += flops

    def take(self) -> dict[str, Span]:
        """The spans since the last call."""
        spans = dict(self._spans)
        self._spans.clear()
        return spans
