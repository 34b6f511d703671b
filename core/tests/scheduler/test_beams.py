"""The search itself: against a plain reference, against all outputs there are, and by its properties."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.plan import TokenLogprobs
from quire.scheduler.beams import Beam, BeamGroup, BeamRules

from .beam_reference import Found, Model, Tokens, every_output, search

VOCAB = 11


def model(seed: int, vocabulary: int = VOCAB, ends: float = 0.0) -> Model:
    """A random model; `ends` is added to the logit of token 0."""

    def logprobs(tokens: Tokens) -> list[float]:
        dice = random.Random(f"{seed} {tokens}")
        logits = [dice.gauss(ends * (token == 0), 1.5) for token in range(vocabulary)]
        total = math.log(sum(map(math.exp, logits)))
        return [logit - total for logit in logits]

    return logprobs


def answer(logprobs: list[float], most: int) -> TokenLogprobs:
    """As a worker gives it: some token first, here the last, then the most likely ones."""
    order = sorted(range(len(logprobs)), key=lambda token: -logprobs[token])[:most]
    ids = [len(logprobs) - 1, *order]
    return TokenLogprobs(ids, [logprobs[token] for token in ids], 1)


def tokens_of(beam: Beam) -> Tokens:
    return tuple(entry.token_ids[0] for entry in beam.entries())


def run(logprobs: Model, rules: BeamRules) -> list[Found]:
    """A whole search with a group."""
    group = BeamGroup(rules)
    while group.live:
        answered = [group.answered]
        for beam in group.live:
            beam.answer = answer(list(logprobs(tokens_of(beam))), rules.num_candidates)
        answered.append(group.answered)
        assert answered == [False, True]
        before = group.live
        for beam in group.advance():
            assert beam.parent in before
            assert len(beam.entries()) == group.length
        assert all(beam.answer is None for beam in before)
    return [Found(one.score, one.beam.total, tokens_of(one.beam)) for one in group.results]


rules = st.builds(
    BeamRules,
    width=st.integers(1, 5),
    max_tokens=st.integers(1, 9),
    min_tokens=st.integers(0, 4),
    stop_ids=st.frozensets(st.sampled_from([0, 3, 4]), max_size=3),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]),
    early_stopping=st.sampled_from([True, False, "never"]),
)


@given(rules=rules, seed=st.integers(0, 10_000), ends=st.sampled_from([0.0, 2.0, 4.0]))
@settings(max_examples=120, deadline=None)
def test_equals_the_plain_search(rules: BeamRules, seed: int, ends: float) -> None:
    logprobs = model(seed, ends=ends)
    assert run(logprobs, rules) == search(logprobs, rules)


@given(
    seed=st.integers(0, 1000),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]),
    stop_ids=st.sampled_from([frozenset(), frozenset({0}), frozenset({0, 2})]),
    min_tokens=st.integers(0, 3),
)
@settings(max_examples=15, deadline=None)
def test_with_beams_for_every_output_it_finds_the_best(
    seed: int, length_penalty: float, stop_ids: frozenset[int], min_tokens: int
) -> None:
    rules = BeamRules(100, 4, min_tokens, stop_ids, length_penalty, "never")
    logprobs = model(seed, vocabulary=3, ends=1.0)
    assert run(logprobs, rules) == every_output(logprobs, rules, 3)


@given(rules=rules, seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_results_are_whole_distinct_and_in_order(rules: BeamRules, seed: int) -> None:
    found = run(model(seed, ends=3.0), rules)
    assert len(found) == rules.width
    assert len({one.tokens for one in found}) == rules.width
    assert found == sorted(found, key=lambda one: -one.score)
    for one in found:
        length = len(one.tokens)
        ends = [place for place, token in enumerate(one.tokens, start=1) if token in rules.stop_ids]
        assert ends in ([], [length])
        assert not ends or length > rules.min_tokens
        assert ends or length == rules.max_tokens
        assert one.score == pytest.approx(one.total / length**rules.length_penalty)


@given(rules=rules, seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_to_stop_later_is_never_worse(rules: BeamRules, seed: int) -> None:
    logprobs = model(seed, ends=3.0)
    best = [run(logprobs, replace(rules, early_stopping=early))[0].score for early in (True, False, "never")]
    assert best == sorted(best)


@given(seed=st.integers(0, 10_000), stop_ids=st.frozensets(st.sampled_from([0, 3]), max_size=2))
@settings(max_examples=25, deadline=None)
def test_one_beam_is_greedy_search(seed: int, stop_ids: frozenset[int]) -> None:
    logprobs = model(seed, ends=3.0)
    (found,) = run(logprobs, BeamRules(1, 7, stop_ids=stop_ids, length_penalty=2.0, early_stopping="never"))
    tokens: list[int] = []
    while len(tokens) < 7 and not (tokens and tokens[-1] in stop_ids):
        row = list(logprobs(tuple(tokens)))
        tokens.append(row.index(max(row)))
    assert found.tokens == tuple(tokens)


def test_an_end_beyond_the_best_continuations_is_no_result() -> None:
    group = BeamGroup(BeamRules(2, 5, stop_ids=frozenset({9})))
    (first,) = group.live
    first.answer = TokenLogprobs([1, 1, 2, 9], [-1.0, -1.0, -2.0, -3.0], 1)
    assert [beam.token_id for beam in group.advance()] == [1, 2]
    assert group.results == []


def test_of_equal_continuations_the_better_beams_and_the_more_likely_token_come_first() -> None:
    group = BeamGroup(BeamRules(2, 5))
    (first,) = group.live
    first.answer = TokenLogprobs([1, 1, 2], [-1.0, -1.0, -1.0], 1)
    left, right = group.advance()
    for beam in (left, right):
        beam.answer = TokenLogprobs([5, 5, 6], [-1.0, -1.0, -1.0], 1)
    assert [(beam.parent, beam.token_id) for beam in group.advance()] == [(left, 5), (left, 6)]


@pytest.mark.parametrize(("asked", "kept"), [(0, 0), (2, 2), (-1, 4)])
def test_results_keep_the_log_probabilities_that_were_asked_for(asked: int, kept: int) -> None:
    group = BeamGroup(BeamRules(1, 2, stop_ids=frozenset({3}), min_tokens=1, num_logprobs=asked))
    for _ in range(2):
        (beam,) = group.live
        beam.answer = TokenLogprobs([8, 3, 8, 5, 6], [-0.6, -0.5, -0.6, -2.0, -3.0], 2)
        group.advance()
    first, second = group.results[0].beam.entries()
    assert first == TokenLogprobs([8, *[3, 8, 5, 6][:kept]], [-0.6, *[-0.5, -0.6, -2.0, -3.0][:kept]], 2)
    assert (second.token_ids[0], second.rank) == (3, 1)
