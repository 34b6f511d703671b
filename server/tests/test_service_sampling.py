"""Sampling parameters from what clients send."""

from __future__ import annotations

from typing import Any

import pytest

from quire import SamplingParams
from quire_server.errors import ApiError
from quire_server.service.sampling import priority, sampling_params


def test_what_is_given_stands_over_the_defaults_and_null_is_not_given() -> None:
    params = sampling_params(SamplingParams(top_k=7, temperature=0.6), temperature=0.2, top_k=None, stop="x")
    assert (params.top_k, params.temperature, params.stop) == (7, 0.2, ["x"])


def test_the_limit_is_never_a_default() -> None:
    assert sampling_params(SamplingParams(max_tokens=5)).max_tokens is None
    assert sampling_params(SamplingParams(), max_tokens=3).max_tokens == 3


def test_the_defaults_stay_as_they_are() -> None:
    defaults = SamplingParams()
    sampling_params(defaults, stop=["a"], logit_bias={1: 2.0})
    assert defaults == SamplingParams()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_k", 2**64),
        ("max_tokens", 2**31),
        ("min_tokens", 2**70),
        ("logprobs", 2**40),
        ("n", 10**9),
        ("stop", ["x"] * 1000),
        ("logit_bias", {1: 1e9}),
        ("seed", 2**65),
    ],
)
def test_refusals_name_the_field(name: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        sampling_params(SamplingParams(), **{name: value})
    assert (caught.value.status, caught.value.param) == (400, name)


def test_priorities_are_bounded() -> None:
    assert (priority(None), priority(-3)) == (0, -3)
    with pytest.raises(ApiError, match="out of range"):
        priority(2**63)
