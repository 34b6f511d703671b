"""Prompt lookup is held to a search from the end, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quire.contracts import KINDS, SpeculatorInit, SpeculatorNeed, SpeculatorSpec
from quire_speculator_ngram import quire_speculators
from quire_speculator_ngram.index import RunIndex
from quire_speculator_ngram.options import NgramOptions
from quire_speculator_ngram.speculator import NgramSpeculator

NEED = SpeculatorNeed(device="cpu", dtype="float32", vocab_size=9, num_speculative_tokens=8)


def searched(text: list[int], count: int, shortest: int, longest: int) -> list[int]:
    """The same by definition: longest run first, last occurrence first, going on into what is proposed."""
    for size in range(longest, shortest - 1, -1):
        for start in range(len(text) - size - 1, -1, -1):
            if text[start : start + size] == text[-size:]:
                going = list(text)
                for offset in range(count):
                    going.append(going[start + size + offset])
                return going[len(text) :]
    return []


@given(
    text=st.lists(st.integers(0, 3), min_size=1, max_size=150),
    cuts=st.sets(st.integers(1, 150), max_size=6),
    lengths=st.sampled_from([(1, 1), (2, 4), (1, 5), (3, 3), (2, 32)]),
    count=st.integers(1, 8),
)
@settings(deadline=None, max_examples=150)
def test_it_finds_what_a_search_finds(
    text: list[int], cuts: set[int], lengths: tuple[int, int], count: int
) -> None:
    shortest, longest = lengths
    options = NgramOptions(prompt_lookup_min=shortest, prompt_lookup_max=longest)
    init = SpeculatorInit(need=NEED, device="cpu", max_num_seqs=1, max_model_len=200, options=options)
    speculator, row = NgramSpeculator(init), np.array(text, dtype=np.int32)
    for cut in sorted({*(cut for cut in cuts if cut <= len(text)), len(text)}):
        found = speculator.propose([0], [count], [row[:cut]])
        assert found == [searched(text[:cut], count, shortest, longest)]


def test_memory_is_bounded_by_the_text() -> None:
    index, text = RunIndex(2, 4), np.arange(5000, dtype=np.int32)
    for length in (1000, 1001, 5000):
        index.extend(text[:length])
    assert len(index._after) <= 3 * len(text)
    assert index.find() is None


def test_token_ids_of_any_vocabulary_keep_apart() -> None:
    index, text = RunIndex(1, 3), np.random.default_rng(0).permutation(300_000)[:20_000].astype(np.int32)
    index.extend(text)
    assert len(index._after) == (20_000 - 1) + (20_000 - 2) + (20_000 - 3)


@pytest.mark.parametrize(
    ("given", "lengths"),
    [
        ({}, (2, 4)),
        ({"prompt_lookup_max": 3}, (2, 3)),
        ({"prompt_lookup_max": 1}, (1, 1)),
        ({"prompt_lookup_min": 6}, (6, 6)),
        ({"prompt_lookup_max": 5, "prompt_lookup_min": 1}, (1, 5)),
    ],
)
def test_options(given: dict[str, Any], lengths: tuple[int, int]) -> None:
    options = NgramOptions.model_validate(given)
    assert (options.prompt_lookup_min, options.prompt_lookup_max) == lengths


@pytest.mark.parametrize(
    "given",
    [
        {"prompt_lookup_max": 0},
        {"prompt_lookup_max": 2, "prompt_lookup_min": 3},
        {"lookup_max": 2},
        {"prompt_lookup_max": 33},
    ],
)
def test_options_that_are_none(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NgramOptions.model_validate(given)


def test_the_hook_describes_it() -> None:
    (spec,) = quire_speculators()
    assert isinstance(spec, SpeculatorSpec)
    assert (spec.name, spec.api, spec.takes_model) == ("ngram", KINDS["speculator"].api, False)
