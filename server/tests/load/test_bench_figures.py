"""Figures against numpy, limits, counting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import ConfigError
from quire_server.bench.client import Sample
from quire_server.bench.figures import PERCENTILES, Figures, keeps, parse_slo, percentile, summarise

seconds = st.floats(0, 1e4, allow_nan=False)


@given(st.lists(seconds, min_size=1, max_size=60), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent), abs=1e-9)


@given(st.lists(seconds, min_size=1, max_size=60))
def test_figures_are_in_milliseconds(values: list[float]) -> None:
    figures = Figures.of(values)
    assert figures is not None
    assert figures.mean == pytest.approx(1e3 * np.mean(values))
    wanted = [1e3 * np.percentile(values, percent) for percent in PERCENTILES]
    assert [figures.p50, figures.p90, figures.p95, figures.p99] == pytest.approx(wanted, abs=1e-6)


def test_nothing_has_no_figures() -> None:
    assert Figures.of([]) is None


def sample(**changes: Any) -> Sample:
    values: dict[str, Any] = {
        "index": 0,
        "input_len": 4,
        "output_len": 4,
        "due": 1.0,
        "sent": 1.001,
        "prompt_tokens": 4,
        "output_tokens": 4,
        "counted_by": "usage",
        "times": [1.5, 1.6, 1.9, 2.0],
    }
    return Sample(**(values | changes))


def test_latencies_count_from_when_a_request_was_due() -> None:
    one = sample(sent=1.4)
    assert one.ttft == pytest.approx(0.5)
    assert one.e2e == pytest.approx(1.0)
    assert one.tpot == pytest.approx(0.5 / 3)
    assert one.itl == pytest.approx([0.1, 0.3, 0.1])


def test_several_tokens_in_a_chunk_count_in_tpot() -> None:
    assert sample(output_tokens=11).tpot == pytest.approx(0.05)


def test_one_token_has_no_tpot() -> None:
    assert sample(output_tokens=1, times=[1.5]).tpot is None


def test_a_summary_leaves_failures_out_and_counts_them() -> None:
    samples = [
        sample(),
        sample(output_tokens=3, due=0.9),
        sample(failure="http_429", times=[]),
        sample(failure="broken_stream", times=[1.1]),
        sample(failure="http_429", times=[]),
    ]
    summary = summarise(samples, 2.0, limits={"ttft": 0.55})
    assert (summary.requests, summary.completed) == (5, 2)
    assert summary.failures == {"http_429": 2, "broken_stream": 1}
    assert summary.output_tokens_per_second == 3.5
    assert summary.requests_per_second == 1.0
    assert summary.goodput == 0.5
    assert summary.wrong_length == 1
    assert summary.late == 1
    assert summary.counted_by == {"usage": 2}
    assert summary.ttft == Figures.of([0.5, 0.6])


def test_a_run_of_failures_has_a_summary() -> None:
    summary = summarise([sample(failure="timeout", times=[])], 1.0)
    assert summary.completed == 0
    assert (summary.ttft, summary.e2e, summary.goodput) == (None, None, None)


def test_limits_are_read() -> None:
    assert parse_slo("ttft=200ms, itl=50ms,e2e=1.5s") == {"ttft": 0.2, "itl": 0.05, "e2e": 1.5}


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=5", "ttft=.ms", "ttft=1.2.3s", "foo=1s", "ttft=1s,ttft=2s"]
)
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="limit"):
        parse_slo(text)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"itl": 0.31}, True),
        ({"itl": 0.29}, False),  # the longest gap counts
        ({"tpot": 0.17}, True),
        ({"tpot": 0.16}, False),
        ({"ttft": 0.6, "e2e": 0.9}, False),
        ({"ttft": 0.6, "e2e": 1.1}, True),
    ],
)
def test_limits_are_kept_by_all_measures_at_once(limits: dict[str, float], kept: bool) -> None:
    assert keeps(sample(), limits) is kept
