"""XGrammar is held to the grammar contract."""

from __future__ import annotations

import json

import pytest

from quire.contracts import Grammar
from quire.contracts.grammar import GrammarSource
from quire.testing.grammar import GrammarSuite
from quire.testing.grammar_bench import GrammarBench
from quire_grammar_xgrammar.backend import XGrammar


class TestXGrammar(GrammarSuite):
    @pytest.fixture
    def grammar_class(self) -> type[Grammar]:
        return XGrammar

    def test_calls_that_are_forced_one_after_the_other(self, bench: GrammarBench) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        content = {"type": "json_schema", "json_schema": schema}
        calls = {
            "type": "tags_with_separator",
            "tags": [{"type": "tag", "begin": "<call>", "content": content, "end": "</call>"}],
            "separator": ", ",
            "at_least_one": True,
            "stop_after_first": False,
        }
        said = json.dumps({"type": "structural_tag", "format": calls})
        artefact = bench.grammar.compile(GrammarSource(form="structural_tag", text=said))
        one = '<call>{"n":3}</call>'
        assert bench.takes(artefact, one)
        assert bench.takes(artefact, f"{one}, {one}")
        for wrong in ("", f"{one}, ", "<call>{}</call>", f"Well: {one}", one.replace("{", "{" + " " * 100)):
            assert not bench.takes(artefact, wrong), wrong

    def test_forms_behind_free_text(self, bench: GrammarBench) -> None:
        thinking = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "</think>"}
        forms: list[tuple[dict[str, object], str]] = [
            ({"type": "json_schema", "json_schema": {"type": "integer"}}, "3"),
            ({"type": "regex", "pattern": "[a-c]{2}"}, "ab"),
            ({"type": "or", "elements": [{"type": "const_string", "value": "ja"}]}, "ja"),
            ({"type": "grammar", "grammar": 'root ::= "x" root | "y"'}, "xy"),
        ]
        for form, text in forms:
            both = {"type": "sequence", "elements": [thinking, form]}
            said = json.dumps({"type": "structural_tag", "format": both})
            artefact = bench.grammar.compile(GrammarSource(form="structural_tag", text=said))
            assert bench.takes(artefact, f"Well. </think>{text}")
            assert not bench.takes(artefact, text)
            assert not bench.takes(artefact, f"Well. </think>{text}!")
