"""The rule against a plain count of n-grams, and the processor by its contract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.contracts import LogitsProcessor
from quire.testing.logits_processor import Asked, LogitsProcessorSuite
from quire_logits_no_repeat_ngram.ngrams import Ngrams
from quire_logits_no_repeat_ngram.processor import NoRepeatNgram

texts = st.lists(st.integers(0, 3), max_size=30)


def plainly(size: int, text: list[int]) -> set[int]:
    """Tokens whose n-gram, were they said next, would be in the text already."""
    said = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
    tail = tuple(text[len(text) - size + 1 :])
    return {gram[-1] for gram in said if gram[:-1] == tail and len(tail) == size - 1}


@given(st.integers(1, 5), texts, texts, st.lists(st.integers(0, 3), max_size=6))
def test_equals_a_plain_count(size: int, first: list[int], then: list[int], drafts: list[int]) -> None:
    ngrams = Ngrams(size, first)
    ngrams.extend(then)
    assert ngrams.banned(drafts) == plainly(size, first + then + drafts)
    assert ngrams.banned() == plainly(size, first + then)


class TestContract(LogitsProcessorSuite):
    @pytest.fixture
    def processor_class(self) -> type[LogitsProcessor]:
        return NoRepeatNgram

    @pytest.fixture
    def asked(self) -> list[Asked]:
        return [
            Asked({"no_repeat_ngram_size": 2}, prompt=[3, 4, 5, 3]),
            Asked({"no_repeat_ngram_size": 3}, prompt=[7, 8, 7, 8, 7, 8]),
            Asked({"no_repeat_ngram_size": 1}, prompt=[1, 2]),
            Asked(None, prompt=[1, 1, 1]),
            Asked({"no_repeat_ngram_size": 0}, prompt=[1, 1, 1]),
        ]

    def expected(self, one: Asked, tokens: list[int]) -> set[int] | None:
        size = (one.arguments or {}).get("no_repeat_ngram_size", 0)
        return plainly(size, tokens) if size else None
