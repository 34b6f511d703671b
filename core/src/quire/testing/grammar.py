"""The grammar contract as a test suite. Subclass it and give it your backend:

    class TestMyGrammar(GrammarSuite):
        @pytest.fixture
        def grammar_class(self) -> type[Grammar]:
            return MyGrammar

Random outputs are written from legal tokens alone, and must be what the source asks for: JSON is held to its
schema by `jsonschema`, a regular expression to Python's `re`.
"""

from __future__ import annotations

import json
import random
import re
import time
from functools import cache
from typing import Any

import numpy as np
import pytest

from quire.contracts import Grammar, GrammarSource, Matcher
from quire.errors import InvalidRequestError
from quire.testing.grammar_bench import END, PAD, WIDTH, GrammarBench, dumped, legal_ids
from quire.testing.schema_corpus import schema_corpus

__all__ = ["GrammarSuite"]

_REGEXES = [
    r"[0-9]{3}-[0-9]{4}",
    r"(red|green|blue)( light)?",
    r"[a-f]+\.[a-z]{2,3}",
    r"\w{1,5} \d",
    "ä{2,3}[^x-z]",
]
_CHOICES = ["yes", "no", "näin", 'quo"te', "back\\slash", "two\nlines", "日本", "yes, but"]
_EBNF = 'root ::= item ("," item)*\nitem ::= [a-z] | "(" root ")"\n'
_LARK = 'start: item ("," item)*\nitem: /[a-z]/ | "(" start ")"\n'
_MALFORMED = [
    ("json_schema", "{"),
    ("json_schema", "[1]"),
    ("json_schema", '{"type": "strange"}'),
    ("json_schema", '{"properties": 3}'),
    ("json_schema", '{"$ref": "#/$defs/nowhere"}'),
    ("json_schema", '{"$ref": "http://localhost/other.json"}'),
    ("json_schema", '{"a":' * 5000 + "1" + "}" * 5000),
    ("regex", "("),
    ("regex", "a{3,1}"),
    ("grammar", "root ::= nowhere"),
    ("grammar", "start: nowhere"),
    ("structural_tag", "{"),
]
_TO_HOLD_OR_REFUSE: list[tuple[Any, list[Any]]] = [
    ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 3}, [[True, True]]),
    ({"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 9}, [0.3]),
    ({"not": {"type": "boolean"}}, [True]),
    ({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a", "b"]}, [{"a": 1}]),
    ({"type": "string", "pattern": "^a*$", "minLength": 3, "maxLength": 9}, ["a", "aa"]),
    ({"minLength": 3, "maxLength": 4}, ["a"]),
    ({"enum": [1, "two"], "type": "string"}, [1]),
    ({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "number", "maximum": 3}]}, [1]),
    ({"anyOf": [{"const": 1}, {"const": "x"}], "type": "string"}, [1]),
    ({"allOf": [{"type": "integer", "minimum": 1}, {"maximum": 3}]}, [0, 9]),
    ({"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 2}, [{"a": None}]),
    ({"type": "object", "propertyNames": {"pattern": "^a+$"}, "properties": {"b": {}}}, [{"b": 1}]),
    ({"if": {"type": "boolean"}, "then": {"const": True}}, [False]),
    ({"type": "array", "contains": {"const": 1}, "maxItems": 2}, [[2]]),
    ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 20}, [8]),
    ({"type": "string", "format": "ipv4", "maxLength": 3}, ["1.1.1.1"]),
]
"""Schemas, and values that are not of them."""


@cache
def _bench(kind: type[Grammar]) -> GrammarBench:
    return GrammarBench(kind)  # once: a backend is built once per process


class GrammarSuite:
    """What every grammar backend must hold. Override `grammar_class`."""

    corpus = 64
    """Schemas that random outputs are written for."""
    least_held = 0.9
    """Share of the corpus that a backend takes; the rest it may refuse."""

    @pytest.fixture
    def grammar_class(self) -> type[Grammar]:
        """The class under test."""
        raise NotImplementedError("Override the fixture `grammar_class`.")

    @pytest.fixture
    def bench(self, grammar_class: type[Grammar]) -> GrammarBench:
        """The backend over a small vocabulary."""
        return _bench(grammar_class)

    def test_every_output_is_of_its_schema(self, bench: GrammarBench) -> None:
        validators = pytest.importorskip("jsonschema").Draft202012Validator
        corpus, held, ended = schema_corpus(self.corpus), 0, 0
        for number, (name, schema) in enumerate(corpus):
            try:
                artefact = bench.grammar.compile(GrammarSource(form="json_schema", text=dumped(schema)))
            except InvalidRequestError:
                continue
            held += 1
            for seed in range(3):
                text = bench.write(artefact, seed=100 * number + seed)
                if text is not None:
                    ended += 1
                    problems = [str(one.message) for one in validators(schema).iter_errors(json.loads(text))]
                    assert not problems, (name, schema, text, problems)
        assert held >= self.least_held * len(corpus)
        assert ended >= 0.9 * 3 * held

    @pytest.mark.parametrize("case", range(len(_TO_HOLD_OR_REFUSE)))
    def test_what_cannot_be_held_is_refused(self, bench: GrammarBench, case: int) -> None:
        schema, wrong = _TO_HOLD_OR_REFUSE[case]
        try:
            artefact = bench.grammar.compile(GrammarSource(form="json_schema", text=dumped(schema)))
        except InvalidRequestError:
            return
        for value in wrong:
            assert not bench.takes(artefact, json.dumps(value)), (schema, value)

    @pytest.mark.parametrize("compact", [False, True])
    def test_any_json_object(self, bench: GrammarBench, compact: bool) -> None:
        artefact = bench.grammar.compile(GrammarSource(form="json_object", text="", compact=compact))
        assert bench.takes(artefact, '{"a":[1,{"b":null}]}')
        assert bench.takes(artefact, '{"a": 1}') is not compact
        assert not bench.takes(artefact, "[1]")
        for seed in range(6):
            text = bench.write(artefact, seed)
            assert text is None or isinstance(json.loads(text), dict)

    def test_whitespace_comes_to_an_end(self, bench: GrammarBench) -> None:
        artefact = bench.grammar.compile(GrammarSource(form="json_schema", text='{"type":"array"}'))
        matcher = bench.grammar.matcher(artefact)
        assert matcher.accept(bench.spell("[")[0])
        space = bench.vocabulary.tokens.index(b" ")
        assert not all(matcher.accept(space) for _ in range(100))

    @pytest.mark.parametrize("regex", _REGEXES)
    def test_a_regex_is_matched_as_a_whole(self, bench: GrammarBench, regex: str) -> None:
        artefact = bench.grammar.compile(GrammarSource(form="regex", text=regex))
        texts = [bench.write(artefact, seed) for seed in range(8)]
        assert any(text is not None for text in texts)
        assert all(text is None or re.fullmatch(regex, text) for text in texts), texts

    def test_the_output_is_one_of_the_choices(self, bench: GrammarBench) -> None:
        artefact = bench.grammar.compile(GrammarSource(form="choice", text=dumped(_CHOICES)))
        assert all(bench.takes(artefact, one) for one in _CHOICES)
        assert {bench.write(artefact, seed) for seed in range(40)} <= set(_CHOICES)
        assert not bench.takes(artefact, "ye")

    @pytest.mark.parametrize("text", [_EBNF, _LARK])
    def test_grammars_in_either_notation(self, bench: GrammarBench, text: str) -> None:
        artefact = bench.grammar.compile(GrammarSource(form="grammar", text=text))
        assert bench.takes(artefact, "a,(b,(c)),d")
        assert not bench.takes(artefact, "a,(b")
        assert not bench.takes(artefact, "ab")

    def test_structural_tags(self, bench: GrammarBench) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        structure = {"begin": "<call>", "schema": schema, "end": "</call>"}
        said = {"type": "structural_tag", "structures": [structure], "triggers": ["<call>"]}
        artefact = bench.grammar.compile(GrammarSource(form="structural_tag", text=dumped(said)))
        assert bench.takes(artefact, 'Well: <call>{"n":3}</call> it is')
        assert not bench.takes(artefact, 'Well: <call>{"m":3}</call>')
        assert bench.takes(artefact, '<call>{ "n": 3}</call>')
        assert not bench.takes(artefact, f'<call>{{{" " * 100}"n":3}}</call>')

    @pytest.mark.parametrize(("form", "text"), _MALFORMED)
    def test_the_malformed_is_refused_with_a_reason(self, bench: GrammarBench, form: Any, text: str) -> None:
        with pytest.raises(InvalidRequestError, match=r".{20}") as caught:
            bench.grammar.compile(GrammarSource(form=form, text=text))
        assert len(str(caught.value)) < 2000

    def test_masks_are_those_of_the_vocabulary(self, bench: GrammarBench) -> None:
        matcher = self._matcher(bench, "json_object", "")
        legal = bench.legal(matcher)
        assert legal
        assert PAD not in legal
        assert max(legal) < len(bench.vocabulary.tokens) < WIDTH

    def test_accepted_is_what_is_legal(self, bench: GrammarBench) -> None:
        matcher = self._matcher(bench, "regex", "[a-c]{2}(-d)?")
        for token in bench.spell("ab-d"):
            legal = set(bench.legal(matcher))
            for other in range(WIDTH):
                fork = matcher.fork()
                assert fork.accept(other) is (other in legal), other
                assert (bench.legal(fork) if other not in legal else legal) is not None
            assert matcher.accept(token)

    def test_an_illegal_token_changes_nothing(self, bench: GrammarBench) -> None:
        matcher = self._matcher(bench, "regex", "[a-c]{2}")
        before = bench.legal(matcher)
        assert not matcher.accept(bench.spell("z")[0])
        assert not matcher.accept(END)
        assert bench.legal(matcher) == before

    def test_the_end(self, bench: GrammarBench) -> None:
        matcher = self._matcher(bench, "choice", '["a"]')
        assert matcher.accept(bench.spell("a")[0])
        assert bench.legal(matcher) == list(bench.vocabulary.end_ids)
        assert not matcher.is_terminated()
        assert matcher.accept(END)
        matcher.rollback(0)
        assert matcher.is_terminated()
        assert not matcher.accept(END)
        matcher.rollback(1)
        assert not matcher.is_terminated()
        assert bench.legal(matcher) == list(bench.vocabulary.end_ids)

    def test_rolled_back_is_as_before(self, bench: GrammarBench) -> None:
        source = GrammarSource(form="json_schema", text=dumped(schema_corpus(12)[11][1]))
        artefact = bench.grammar.compile(source)
        rng = random.Random(5)
        matcher, masks = bench.grammar.matcher(artefact), []
        for _ in range(12):
            row = bench.mask(matcher)
            masks.append(row)
            token = rng.choice(legal_ids(row))
            assert matcher.accept(token)
            if matcher.is_terminated():
                break
        back = min(5, len(masks))
        matcher.rollback(back)
        assert np.array_equal(bench.mask(matcher), masks[-back])

    def test_forks_go_their_own_ways(self, bench: GrammarBench) -> None:
        matcher = self._matcher(bench, "regex", "(ab|cd)e")
        other = matcher.fork()
        assert matcher.accept(bench.spell("a")[0])
        assert other.accept(bench.spell("c")[0])
        assert not matcher.accept(bench.spell("d")[0])
        assert other.accept(bench.spell("d")[0])

    def test_a_batch_is_row_by_row(self, bench: GrammarBench) -> None:
        corpus = [schema for _, schema in schema_corpus(16, seed=3)]
        matchers = []
        for schema in corpus:
            try:
                source = GrammarSource(form="json_schema", text=dumped(schema))
                matchers.append(bench.grammar.matcher(bench.grammar.compile(source)))
            except InvalidRequestError:
                continue
        rows = list(range(1, 2 * len(matchers), 2))
        bitmask = np.full((2 * len(matchers), bench.vocabulary.mask_width), 0x5A5A5A5A, dtype=np.int32)
        bench.grammar.fill(matchers, rows, bitmask)
        for matcher, row in zip(matchers, rows, strict=True):
            assert np.array_equal(bitmask[row], bench.mask(matcher))
        assert (bitmask[::2] == 0x5A5A5A5A).all()

    def test_an_artefact_travels(self, bench: GrammarBench) -> None:
        source = GrammarSource(form="json_schema", text=dumped(schema_corpus(11)[10][1]))
        artefact = bench.grammar.compile(source)
        there = GrammarBench(bench.kind)
        assert bench.write(artefact, seed=1) == there.write(artefact, seed=1)

    def test_masks_are_quick(self, bench: GrammarBench) -> None:
        matcher = self._matcher(bench, "json_object", "")
        for token in bench.spell('{"name": "Al'):
            assert matcher.accept(token)
        bench.mask(matcher)
        start = time.perf_counter()
        for _ in range(50):
            bench.mask(matcher)
        assert (time.perf_counter() - start) / 50 < 0.02

    def _matcher(self, bench: GrammarBench, form: Any, text: str) -> Matcher:
        return bench.grammar.matcher(bench.grammar.compile(GrammarSource(form=form, text=text)))
