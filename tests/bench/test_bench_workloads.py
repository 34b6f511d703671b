"""Workloads: the same on every machine, other prompts each round, exact counts."""

from __future__ import annotations

import pytest

from harness.adapters.worker import Request
from harness.workloads import (
    HIGHEST_ID,
    LOWEST_ID,
    OFFLINE,
    WORKLOADS,
    Answer,
    WrongCount,
    figures,
    make_requests,
    warm_up,
)


def answer(requests: list[Request], seconds: float = 2.0) -> Answer:
    """One that took so long, its tokens 10 ms apart."""
    times = [[0.01 * (i + 1) for i in range(one.new)] for one in requests]
    return Answer(seconds, [[7] * one.new for one in requests], times, {})


@pytest.mark.parametrize("name", OFFLINE)
def test_rounds_differ_in_ids_and_not_in_lengths(name: str) -> None:
    first, again, second = make_requests(name, 0), make_requests(name, 0), make_requests(name, 1)
    assert first == again
    assert all(a.prompt != b.prompt for a, b in zip(first, second, strict=True))
    assert [(len(one.prompt), one.new) for one in first] == [(len(one.prompt), one.new) for one in second]
    assert all(LOWEST_ID <= token <= HIGHEST_ID for one in first for token in one.prompt)


def test_ragged_lengths_stay_in_their_ranges() -> None:
    requests = make_requests("ragged", 3)
    assert len(requests) == 32
    assert all(32 <= len(one.prompt) <= 256 and 32 <= one.new <= 192 for one in requests)
    assert len({one.new for one in requests}) > 16


def test_prefix_is_shared_and_the_rest_is_not() -> None:
    requests = make_requests("prefix", 0)
    assert len({tuple(one.prompt[:512]) for one in requests}) == 1
    assert len({tuple(one.prompt[512:]) for one in requests}) == len(requests) == 32


def test_a_workload_that_is_not_offline_has_no_requests() -> None:
    with pytest.raises(ValueError, match="'online' is no offline workload; there are single"):
        make_requests("online", 0)


def test_warm_up_touches_only_what_is_needed() -> None:
    assert [len(batch) for batch in warm_up(["single"])] == [1]
    assert [len(batch) for batch in warm_up(["single", "prefix"])] == [1, 32, 1]


def test_figures_of_each_workload() -> None:
    found = {name: figures(name, make_requests(name, 0), answer(make_requests(name, 0))) for name in OFFLINE}
    assert found["single"] == pytest.approx({"decode_ms": 10.0, "ttft_ms": 10.0})
    assert found["prefill"] == {"prefill_tok_s": 512.0}
    assert found["prefix"] == {"requests_s": 16.0}
    output = sum(one.new for one in make_requests("ragged", 0))
    assert found["ragged"] == {"output_tok_s": output / 2}
    for name, shown in found.items():
        assert set(shown) == {figure.name for figure in WORKLOADS[name].figures}


def test_another_number_of_tokens_is_no_result() -> None:
    requests = make_requests("single", 0)
    short = Answer(1.0, [[7] * 127], [[0.1] * 127], {})
    with pytest.raises(WrongCount, match="asked for 128 tokens, 127 came"):
        figures("single", requests, short)
