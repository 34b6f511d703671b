"""LLGuidance is held to the grammar contract."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from quire.contracts import Grammar, GrammarInit, GrammarNeed, GrammarSource
from quire.errors import InvalidRequestError
from quire.testing.grammar import GrammarSuite
from quire.testing.grammar_bench import END, WIDTH, GrammarBench, small_tokenizer
from quire.text.vocabulary import make_vocabulary
from quire_grammar_llguidance.backend import LLGuidance


class TestLLGuidance(GrammarSuite):
    @pytest.fixture
    def grammar_class(self) -> type[Grammar]:
        return LLGuidance


def test_an_end_token_that_looks_like_text_is_the_end() -> None:
    vocabulary = make_vocabulary(small_tokenizer(), WIDTH, [END])
    plain = next(number for number, token in enumerate(vocabulary.tokens) if token == b"b")
    vocabulary = dataclasses.replace(vocabulary, end_ids=(plain,))
    need = GrammarNeed(device="cpu", dtype="float32", vocab_size=WIDTH)
    grammar = LLGuidance(GrammarInit(need=need, vocabulary=vocabulary))
    matcher = grammar.matcher(grammar.compile(GrammarSource(form="regex", text="[ab]{2}")))
    bits = np.zeros((1, vocabulary.mask_width), dtype=np.int32)
    legal = []
    for _ in range(3):
        grammar.fill([matcher], [0], bits)
        legal.append(bool(bits[0, plain // 32] >> (plain % 32) & 1))
        matcher.accept(next(number for number, token in enumerate(vocabulary.tokens) if token == b"a"))
    assert legal == [False, False, True]


@pytest.mark.parametrize(
    ("schema", "legal", "illegal"),
    [
        (
            {"minimum": 0, "maximum": 1000},
            ["7", "0.5", "0.123456"],
            ["0.1234567", "1e3"],
        ),
        ({"exclusiveMinimum": -2.5}, ["-2.4", "3.25"], ["-2.5", "0.1234567"]),
        ({"minimum": 1e-7, "maximum": 2e-7}, ["0.00000015"], ["1"]),
        ({}, ["1", "1.2e-30", "0.1234567890123"], ["."]),
        ({"maximum": 5_000_000_000}, ["5000000000", "-7.5"], ["5000000001"]),
        ({"minimum": 1, "multipleOf": 0.5}, ["1.5"], ["1.25"]),
    ],
)
def test_decimals_of_a_range_come_to_an_end(
    schema: dict[str, Any], legal: list[str], illegal: list[str]
) -> None:
    vocabulary = make_vocabulary(small_tokenizer(), WIDTH, [END])
    need = GrammarNeed(device="cpu", dtype="float32", vocab_size=WIDTH)
    grammar = LLGuidance(GrammarInit(need=need, vocabulary=vocabulary))
    text = json.dumps({"type": "number", **schema})
    artefact = grammar.compile(GrammarSource(form="json_schema", text=text))
    ids = {token: number for number, token in enumerate(vocabulary.tokens) if len(token) == 1}

    def fits(number: str) -> bool:
        matcher = grammar.matcher(artefact)
        return all(matcher.accept(ids[bytes([byte])]) for byte in number.encode()) and matcher.accept(END)

    assert [number for number in legal if not fits(number)] == []
    assert [number for number in illegal if fits(number)] == []


DIGITS = {"type": "regex", "pattern": "[0-9]+"}


def _dispatch(**more: Any) -> GrammarSource:
    form = {"type": "dispatch", "rules": [["#", DIGITS], ["$", {"type": "any_text"}]], **more}
    return GrammarSource(form="structural_tag", text=json.dumps({"format": form}))


def test_behind_a_pattern_stands_what_belongs_to_it() -> None:
    bench = GrammarBench(LLGuidance)
    for loop in (True, False):
        artefact = bench.grammar.compile(_dispatch(loop=loop))
        assert all(bench.takes(artefact, text) for text in ("", "text", "a #12", "#1", "a $ b"))
        assert not any(bench.takes(artefact, text) for text in ("a #x", "#"))
        assert bench.takes(artefact, "a #1 b #2") is loop


@pytest.mark.parametrize("more", [{"excludes": ["x"]}, {"rules": [["#"]]}, {"rules": []}])
def test_a_dispatch_that_cannot_be_held_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="structural_tag cannot be used"):
        GrammarBench(LLGuidance).grammar.compile(_dispatch(**more))


def test_what_is_wrong_with_an_expression_is_said() -> None:
    with pytest.raises(InvalidRequestError, match=r"regex parse error: unclosed character class$"):
        GrammarBench(LLGuidance).grammar.compile(GrammarSource(form="regex", text="["))
