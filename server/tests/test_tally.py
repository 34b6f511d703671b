"""A tally shows what its histogram would have shown had it been given every value."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.samples import Sample

from quire_server.metrics.tally import FLUSH_EVERY, Tally

BOUNDS = (0.5, 1.0, 2.0)
VALUES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 1e9]))


def shown(registry: CollectorRegistry) -> list[Sample]:
    return [
        one for family in registry.collect() for one in family.samples if not one.name.endswith("_created")
    ]


@given(VALUES, VALUES)
def test_it_equals_the_histogram(first: list[float], second: list[float]) -> None:
    expected, registry = CollectorRegistry(), CollectorRegistry()
    reference = Histogram("h", "help", buckets=BOUNDS, registry=expected)
    tally = Tally("h", "help", BOUNDS, registry)
    for batch in (first, second):
        for value in batch:
            reference.observe(value)
            tally.add(value, now=0.0)
        tally.flush()
        assert shown(registry) == shown(expected)


def test_it_flushes_by_itself_once_in_a_while() -> None:
    registry = CollectorRegistry()
    tally = Tally("h", "help", BOUNDS, registry)
    tally.add(0.1, now=FLUSH_EVERY / 2)
    assert registry.get_sample_value("h_count") == 0
    tally.add(0.1, now=FLUSH_EVERY * 2)
    assert registry.get_sample_value("h_count") == 2
