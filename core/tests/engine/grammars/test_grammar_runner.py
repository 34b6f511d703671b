"""Outputs are followed, what is forced is offered, and masks are right whether the offer was taken or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.grammars.legal_tokens import only_ids, pack_ids
from quire.engine.grammars.runner import GrammarRunner
from quire.plan import SlotStart, StepPlan
from quire.request import CompiledGrammar, EngineRequest, StepOutput
from quire.sampling_params import SamplingParams

from .tries import END, VOCAB, Trie, Words, runner_of


def _runner(of: Mapping[str, Words], **asked: Any) -> GrammarRunner:
    """A runner with a request for each name, in slots 0, 1 and so on."""
    runner = runner_of(of)
    params = SamplingParams(**asked)
    for name in of:
        runner.add(
            EngineRequest(
                request_id=name,
                prompt_ids=[3],
                params=params,
                seed=0,
                grammar=CompiledGrammar("tries", name.encode()),
            )
        )
    starts = [
        SlotStart(slot, 0, name, params, 0, [3], 1, 0, ([],), masked=True) for slot, name in enumerate(of)
    ]
    runner.seat(StepPlan(0, starts=starts))
    return runner


def _legal(runner: GrammarRunner, slots: Sequence[int]) -> list[set[int]]:
    masks = runner.masks(StepPlan(1, slots=list(slots)))
    assert masks is not None
    assert masks.slots == list(slots)
    unpacked = np.unpackbits(masks.bits.view(np.uint8), axis=1, bitorder="little")
    return [set(np.flatnonzero(row).tolist()) for row in unpacked]


def _news(name: str, ids: Sequence[int]) -> StepOutput:
    return StepOutput(request_id=name, index=0, token_ids=list(ids))


_words = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=6).map(tuple), min_size=1, max_size=4)


@given(st.lists(_words, min_size=1, max_size=4), st.data())
def test_masks_are_those_of_the_tokens_that_there_are(
    lists: list[list[tuple[int, ...]]], data: st.DataObject
) -> None:
    of = {str(number): tuple(words) for number, words in enumerate(lists)}
    runner = _runner(of)
    written: dict[str, list[int]] = {name: [] for name in of}
    for _ in range(8):
        live = [name for name in of if written[name][-1:] != [END]]
        if not live:
            break
        legal = dict(zip(live, _legal(runner, [int(name) for name in live]), strict=True))
        drawn = {}
        for name in live:
            assert legal[name] == Trie(of[name], tuple(written[name])).legal()
            drawn[name] = data.draw(st.sampled_from(sorted(legal[name])))
            written[name].append(drawn[name])
        moved = runner.advance([_news(name, [token]) for name, token in drawn.items()])
        appended = []
        for (name, _), ids in runner.forced(moved):
            reference = Trie(of[name], tuple(written[name]))
            for token in ids:
                assert reference.legal() == {token}
                assert reference.accept(token)
            assert reference.is_terminated() or len(reference.legal()) > 1  # all that is forced is offered
            taken = data.draw(st.integers(0, len(ids)))  # none: it was not appended; a part: it was cut
            written[name] += ids[:taken]
            if taken:
                appended.append(_news(name, ids[:taken]))
        runner.advance(appended)


@pytest.mark.parametrize(
    "asked",
    [
        {"logprobs": 1},
        {"bad_words": ["x"]},
        {"allowed_token_ids": [3]},
        {"extra_args": {"no_repeat_ngram_size": 2}},
    ],
)
def test_what_has_log_probabilities_or_may_be_excluded_is_drawn(asked: dict[str, Any]) -> None:
    runner = _runner({"0": ((2, 3, 4),)}, **asked)
    assert not runner.forced(runner.advance([_news("0", [2])]))
    assert _legal(runner, [0]) == [{3}]


def test_a_token_that_the_grammar_does_not_allow_leaves_none(caplog: pytest.LogCaptureFixture) -> None:
    runner = _runner({"0": ((2, 3),), "1": ((2, 3, 4), (2, 5))})
    runner.forced(runner.advance([_news("0", [4]), _news("1", [2])]))
    runner.advance([])
    assert _legal(runner, [0, 1]) == [set(), {3, 5}]
    assert "does not allow the token 4" in caplog.text


def test_the_end_frees_a_row_even_where_something_was_offered() -> None:
    runner = _runner({"0": ((2, 3),), "1": ((2, 3), (4,))})
    ((key, ids),) = runner.forced(runner.advance([_news("0", [2])]))
    assert (key, ids) == (("0", 0), [3, END])
    end = StepOutput(request_id="0", index=0, token_ids=[3, END], finish_reason="stop")
    runner.advance([end])
    assert _legal(runner, [1]) == [{2, 4}]


@given(st.lists(st.sets(st.integers(0, VOCAB - 1), max_size=3), min_size=1, max_size=9))
def test_rows_with_one_bit(sets: list[set[int]]) -> None:
    rows = np.stack([pack_ids(one, (VOCAB + 31) // 32) for one in sets])
    assert only_ids(rows) == [(row, *one) for row, one in enumerate(sets) if len(one) == 1]
