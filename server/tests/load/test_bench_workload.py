"""Workloads and arrivals: reproducible, within their ranges, of the distribution they name."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import ConfigError
from quire_server.bench import Address, Lengths, LoadSettings
from quire_server.bench.arrivals import poisson
from quire_server.bench.workload import WORDS, Workload


def workload(**changes: Any) -> Workload:
    settings: dict[str, Any] = {
        "form": "ids",
        "input_len": Lengths(4, 9),
        "output_len": Lengths(2, 3),
        "token_ids": Lengths(32, 255),
    }
    return Workload(**(settings | changes))


@given(
    low=st.integers(1, 20),
    more=st.integers(0, 20),
    prefix=st.integers(0, 12),
    prefixes=st.integers(1, 4),
    seed=st.integers(0, 50),
    index=st.integers(-3, 1000),
)
def test_a_request_depends_on_seed_and_number_alone_and_keeps_its_ranges(
    low: int, more: int, prefix: int, prefixes: int, seed: int, index: int
) -> None:
    load = workload(
        input_len=Lengths(low, low + more), prefix_length=prefix, num_prefixes=prefixes, seed=seed
    )
    request = load.request(index)
    assert request == load.request(index)
    assert isinstance(request.prompt, list)
    assert len(request.prompt) == request.input_len
    assert low <= request.input_len - prefix <= low + more
    assert 2 <= request.output_len <= 3
    assert all(32 <= one <= 255 for one in request.prompt)


def test_prefixes_are_shared_and_the_rest_is_not() -> None:
    load = workload(prefix_length=16, num_prefixes=3, input_len=Lengths(16, 16))
    prompts = [tuple(load.request(index).prompt) for index in range(60)]
    assert len({prompt[:16] for prompt in prompts}) == 3
    assert len({prompt[16:] for prompt in prompts}) == 60


def test_every_length_of_a_range_occurs() -> None:
    load = workload(input_len=Lengths(3, 6))
    assert {load.request(index).input_len for index in range(200)} == {3, 4, 5, 6}


def test_another_seed_gives_other_requests() -> None:
    assert workload().request(0) != workload(seed=1).request(0)


def test_texts_are_words() -> None:
    request = workload(form="text", prefix_length=3).request(5)
    assert isinstance(request.prompt, str)
    words = request.prompt.split(" ")
    assert len(words) == request.input_len
    assert set(words) <= set(WORDS)


@pytest.mark.parametrize(("text", "lengths"), [("7", Lengths(7, 7)), ("3:9", Lengths(3, 9))])
def test_lengths_are_read_and_written(text: str, lengths: Lengths) -> None:
    assert Lengths.parse(text) == lengths
    assert str(lengths) == text


@pytest.mark.parametrize("text", ["", "0", "9:3", "a", "1:b", "1:2:3", "-4"])
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="LOW:HIGH"):
        Lengths.parse(text)


@pytest.mark.parametrize("rate", [0.5, 20.0])
def test_gaps_are_exponential_with_the_rates_mean(rate: float) -> None:
    times = list(itertools.islice(poisson(rate, seed=3), 20_001))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[0] == 0
    # The mean of 20 000 gaps has a standard error of 0.7%; an exponential's deviation equals its mean.
    assert statistics.fmean(gaps) == pytest.approx(1 / rate, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / rate, rel=0.05)
    assert sum(gap > 1 / rate for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), rel=0.05)


def test_arrivals_are_those_of_their_seed() -> None:
    first, again, other = (list(itertools.islice(poisson(5.0, seed), 9)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/v1/", "http://h:8000"),
        ("http://h", "http://h"),
        ("https://h/api/v1", "https://h/api"),
        ("http://[::1]:9", "http://[::1]:9"),
    ],
)
def test_addresses_are_bases(url: str, base: str) -> None:
    assert Address.parse(url).url == base


@pytest.mark.parametrize(
    "url", ["h:8000", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "http://h:x"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="URL"):
        Address.parse(url)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_requests": None},
        {"num_requests": 0},
        {"concurrency": 0},
        {"request_rate": 0.0},
        {"duration": math.nan},
        {"prefix_length": -1},
    ],
)
def test_settings_without_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes)).replace("_", ".")):
        LoadSettings(**changes)
