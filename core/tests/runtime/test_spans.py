"""Spans on a clock that moves only when told."""

from __future__ import annotations

from typing import Any

import pytest

from quire.runtime.limits import Limits
from quire.runtime.spans import Spans


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> float:
        self.now += seconds
        return seconds


def test_time_inside_is_the_inner_kinds_alone() -> None:
    clock = Clock()
    spans = Spans(clock)
    inner = spans.wrap("inner", clock.spend, lambda args, result: (10 * args[0], result))

    def outer() -> None:
        clock.spend(1)
        inner(2.0)
        inner(3.0)
        clock.spend(4)

    spans.wrap("outer", outer)()
    taken = spans.take()
    assert (taken["outer"].seconds, taken["outer"].calls) == (5, 1)
    one = taken["inner"]
    assert (one.seconds, one.calls, one.nbytes, one.flops) == (5, 2, 50, 5)
    assert spans.take() == {}


def test_what_the_counting_costs_is_nobodys() -> None:
    clock = Clock()
    spans = Spans(clock)

    def slow(args: tuple[Any, ...], result: Any) -> tuple[float, float]:
        clock.spend(100)
        return 1, 1

    inner = spans.wrap("inner", clock.spend, slow)
    spans.wrap("outer", lambda: inner(2.0))()
    assert {kind: span.seconds for kind, span in spans.take().items()} == {"inner": 2, "outer": 0}


def test_a_call_that_raises_is_counted_and_closed() -> None:
    clock = Clock()
    spans = Spans(clock)

    def fail() -> None:
        clock.spend(3)
        raise ValueError("no")

    wrapped = spans.wrap("bad", fail)
    with pytest.raises(ValueError, match="no"):
        wrapped()
    spans.wrap("good", clock.spend)(1.0)
    assert {kind: span.seconds for kind, span in spans.take().items()} == {"bad": 3, "good": 1}


def test_the_roofline_is_the_slower_of_memory_and_arithmetic() -> None:
    limits = Limits(read=10.0, multiply=100.0)
    assert limits.share(20.0, 100.0, 4.0) == 0.5
    assert limits.share(20.0, 300.0, 4.0) == 0.75
    assert limits.share(20.0, 300.0, 0.0) == 0.0
