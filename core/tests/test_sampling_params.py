"""Sampling parameters: accepted, normalised, refused by name, and bounded before anything is allocated."""

from __future__ import annotations

import copy
import dataclasses
import math
import tracemalloc
from dataclasses import fields
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import InvalidRequestError
from quire.sampling_params import SamplingParams
from quire.structured_outputs import StructuredOutputsParams

NOT_INTEGERS: list[Any] = [True, 1.0, "1", None, [1], math.nan, object()]
NOT_NUMBERS: list[Any] = [True, "0.5", None, [0.5], math.nan, math.inf, -math.inf, 10**400, 1j]

BAD: dict[str, list[Any]] = {
    "n": [0, -1, 1025, 1 << 64, 10**5000, *NOT_INTEGERS],
    "best_of": [0, 1025, *(x for x in NOT_INTEGERS if x is not None)],
    "presence_penalty": [-2.01, 2.01, *NOT_NUMBERS],
    "frequency_penalty": [-2.01, 2.01, *NOT_NUMBERS],
    "repetition_penalty": [0, -0.1, *NOT_NUMBERS],
    "temperature": [-0.01, *NOT_NUMBERS],
    "top_p": [0, -0.1, 1.01, *NOT_NUMBERS],
    "top_k": [-2, *NOT_INTEGERS],
    "min_p": [-0.01, 1.01, *NOT_NUMBERS],
    "seed": [1 << 64, -(1 << 63) - 1, *(x for x in NOT_INTEGERS if x is not None)],
    "stop": ["", [""], ["a", 1], 5, b"x", {"a"}, ["a"] * 257, "a" * 4097],
    "stop_token_ids": [5, "12", ["1"], [True], [1.0], [1] * 1025],
    "bad_words": [[""], 5, [None], ["a"] * 1025],
    "include_stop_str_in_output": [1, "yes", None],
    "ignore_eos": [0, "no", None],
    "max_tokens": [0, -1, *(x for x in NOT_INTEGERS if x is not None)],
    "min_tokens": [-1, 17, *NOT_INTEGERS],
    "logprobs": [-2, *(x for x in NOT_INTEGERS if x is not None)],
    "prompt_logprobs": [-2, *(x for x in NOT_INTEGERS if x is not None)],
    "detokenize": [1, None],
    "skip_special_tokens": ["", None],
    "logit_bias": [[1], {"5": 1.0}, {True: 1.0}, {5: 100.5}, {5: math.nan}, {5: "1"}, {5: None}],
    "allowed_token_ids": [[], 5, ["1"], [True], [None]],
    "structured_outputs": ["json", {"json": {}}, 5, True],
    "guided_decoding": ["json", {"json": {}}, 5, True],
    "thinking_token_budget": [-1, *(x for x in NOT_INTEGERS if x is not None)],
    "extra_args": [[], "a", 5, {1: 2}],
    "use_beam_search": [0, "yes", None],
    "length_penalty": [0.8, 2, 10.5, True, "1.0", math.nan],
    "early_stopping": [True, "never", "soon", 0],
    "bad_words_token_ids": [(("x",),), ((True,),)],
}
CASES = [
    pytest.param(name, value, id=f"{name}-{i}") for name, bad in BAD.items() for i, value in enumerate(bad)
]


def test_every_field_has_bad_values() -> None:
    assert set(BAD) == {f.name for f in fields(SamplingParams)}


@pytest.mark.parametrize(("name", "value"), CASES)
def test_bad_values_are_refused_by_name_at_construction(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.field == name
    assert name in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("name", "value"), CASES)
def test_bad_values_assigned_later_are_refused_at_admission(name: str, value: Any) -> None:
    params = SamplingParams()
    setattr(params, name, value)
    with pytest.raises(InvalidRequestError) as caught:
        params.validated()
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": -1}, "temperature is -1: it must be a finite number of at least 0."),
        ({"top_p": 1.5}, "top_p is 1.5: it must be a number above 0 and at most 1."),
        ({"n": True}, "n is True: it must be an integer from 1 to 1024."),
        ({"n": 3, "best_of": 2}, "best_of is 2: it must be an integer from 3 to 1024."),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens is 9: it must be an integer from 0 to 8."),
        ({"length_penalty": 0.8}, "length_penalty is 0.8: it must be 1.0, or None, without use_beam_search."),
        ({"early_stopping": True}, "early_stopping is True: it must be False, or None, without use_beam"),
        ({"stop": "x", "detokenize": False}, "stop is a list of 1: it must be empty without detokenize"),
        ({"include_stop_str_in_output": True, "detokenize": False}, "must be False without detokenize"),
        ({"n": 2, "temperature": 0}, "n is 2: it must be 1 at temperature 0"),
        ({"best_of": 2, "temperature": 1e-6}, "best_of is 2: it must be 1 at temperature 0"),
    ],
)
def test_messages_name_field_value_and_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**given)
    assert message in str(caught.value)


@pytest.mark.parametrize("given", [{"length_penalty": 1.0, "early_stopping": False}, {"length_penalty": 1}])
def test_beam_settings_that_ask_for_nothing_are_accepted(given: dict[str, Any]) -> None:
    assert SamplingParams(use_beam_search=False, **given).validated() == SamplingParams(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"n": 4, "temperature": 0.0},
        {"n": 2, "best_of": 4, "length_penalty": -1, "early_stopping": "never"},
        {"top_k": -1, "stop_token_ids": [5], "min_tokens": 3, "ignore_eos": True, "logprobs": 2, "seed": 1},
    ],
)
def test_beam_search_goes_with(given: dict[str, Any]) -> None:
    params = SamplingParams(use_beam_search=True, **given)
    assert params.validated() == params
    assert params.num_completions == params.n
    assert params.width == max(params.n, params.best_of or 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.7),
        ("top_p", 0.9),
        ("top_k", 5),
        ("min_p", 0.1),
        ("presence_penalty", 1.0),
        ("frequency_penalty", 1.0),
        ("repetition_penalty", 1.1),
        ("logit_bias", {5: 1.0}),
        ("allowed_token_ids", [5]),
        ("bad_words", ["x"]),
        ("extra_args", {"x": 1}),
        ("structured_outputs", StructuredOutputsParams(regex="a")),
        ("thinking_token_budget", 0),
        ("stop", "x"),
        ("length_penalty", 11),
        ("early_stopping", "soon"),
    ],
)
def test_beam_search_refuses_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(use_beam_search=True, n=2, **{name: value})
    assert caught.value.field == name


def test_a_beam_search_leaves_a_models_suggestions_for_sampling_behind() -> None:
    defaults = SamplingParams(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1, max_tokens=9)
    assert defaults.over(n=3, use_beam_search=True) == SamplingParams(
        n=3, use_beam_search=True, temperature=0.0, max_tokens=9
    )
    assert defaults.over(top_k=5) == dataclasses.replace(defaults, top_k=5)
    with pytest.raises(InvalidRequestError, match="top_k is 5"):
        defaults.over(n=3, use_beam_search=True, top_k=5)


def test_unknown_names_are_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(InvalidRequestError, match=r"Unknown sampling parameter 'temprature'.*'temperature'"):
        SamplingParams(temprature=0.5)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequestError, match=r"'zzz'\. Known are: allowed_token_ids, bad_words"):
        SamplingParams(zzz=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequestError, match=r"Name an installed one in LLM\(logits_processors="):
        SamplingParams(logits_processors=[len])  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "given",
    [
        {"top_k": -1},
        {"top_k": 1 << 40},
        {"top_p": 1},
        {"temperature": 1e300},
        {"repetition_penalty": 1e-300},
        {"seed": (1 << 64) - 1},
        {"seed": -(1 << 63)},
        {"logprobs": -1, "prompt_logprobs": 0},
        {"max_tokens": None, "min_tokens": 5000},
        {"n": 4, "best_of": 4},
        {"n": 1, "temperature": 0, "best_of": 1},
        {"n": np.int64(2), "temperature": np.float32(0.5), "stop_token_ids": [np.int32(3)]},
        {"top_p": Fraction(1, 2)},
        {"detokenize": False},
        {"stop": ["</s>", "[INST]"]},
        {"logit_bias": {}},
    ],
)
def test_the_edges_of_the_ranges_are_accepted(given: dict[str, Any]) -> None:
    params = SamplingParams(**given)
    assert params.validated() == params


def test_values_are_normalised() -> None:
    given: dict[str, Any] = {"n": np.int64(2), "logit_bias": {np.int64(3): 1}}
    params = SamplingParams(temperature=1, stop="x", stop_token_ids=(1, 2), seed=-1, **given)
    assert type(params.n) is int
    assert type(params.temperature) is float
    assert params.stop == ["x"]
    assert params.stop_token_ids == [1, 2]
    assert params.bad_words == []
    assert params.logit_bias == {3: 1.0}
    assert params.seed is None


def test_it_stays_mutable_and_validated_is_an_independent_copy() -> None:
    stop = ["a"]
    params = SamplingParams(stop=stop, logit_bias={1: 2.0})
    stop.append("b")
    assert params.stop == ["a"]
    params.max_tokens = 5
    params.stop = "c"
    admitted = params.validated()
    assert (admitted.max_tokens, admitted.stop) == (5, ["c"])
    assert admitted.logit_bias is not None
    assert params.logit_bias is not None
    params.logit_bias[1] = 99.0
    params.max_tokens = 6
    assert (admitted.max_tokens, admitted.logit_bias) == (5, {1: 2.0})


@given(
    n=st.integers(1, 4),
    temperature=st.floats(0.1, 3),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(-1, 99),
    seed=st.none() | st.integers(-(1 << 63), (1 << 64) - 1),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3),
    bias=st.none() | st.dictionaries(st.integers(0, 99), st.floats(-100, 100), max_size=3),
    words=st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3).map(tuple), max_size=2).map(tuple),
)
def test_the_wire_and_copies_keep_everything(
    n: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    stop: list[str],
    bias: dict[int, float] | None,
    words: tuple[tuple[int, ...], ...],
) -> None:
    params = SamplingParams(
        n=n,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=stop,
        logit_bias=bias,
        bad_words_token_ids=words,
    )
    wire = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(wire, type=SamplingParams) == params
    assert copy.deepcopy(params) == params == params.validated()


def test_the_wire_refuses_bad_values_too() -> None:
    with pytest.raises(msgspec.ValidationError, match="top_p is 2"):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"top_p": 2.0}), type=SamplingParams)


@pytest.mark.parametrize("token", [-1, 100, 1 << 31, 1 << 64, -(1 << 64)])
@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("logit_bias", lambda token: {0: 1.0, token: 1.0}),
        ("allowed_token_ids", lambda token: [0, token, 99]),
        ("stop_token_ids", lambda token: [token]),
        ("bad_words_token_ids", lambda token: ((1,), (2, token))),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(name: str, wrap: Any, token: int) -> None:
    params = SamplingParams(**{name: wrap(token)})
    with pytest.raises(InvalidRequestError, match=r"token ids from 0 to 99") as caught:
        params.check_vocabulary(100)
    assert caught.value.field == name


def test_ids_inside_the_vocabulary_are_accepted() -> None:
    SamplingParams(
        logit_bias={0: 1, 99: 1},
        allowed_token_ids=[0, 99],
        stop_token_ids=[99],
        bad_words_token_ids=((0, 99),),
    ).check_vocabulary(100)
    SamplingParams().check_vocabulary(1)


class Endless(list[Any]):
    """Claims a length it does not have, so that reading it is an error."""

    def __len__(self) -> int:
        return 1 << 40

    def __iter__(self) -> Any:
        raise AssertionError("read before its length was checked")


class EndlessMapping(dict[Any, Any]):
    """The same for mappings."""

    def __len__(self) -> int:
        return 1 << 40

    def items(self) -> Any:
        raise AssertionError("read before its length was checked")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stop", Endless()),
        ("stop_token_ids", Endless()),
        ("bad_words", Endless()),
        ("allowed_token_ids", Endless()),
        ("logit_bias", EndlessMapping()),
    ],
)
def test_lists_are_measured_before_they_are_read(name: str, value: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError, match=f"{name} is a .* of {1 << 40}"):
            SamplingParams(**{name: value})
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
