"""Calls that a grammar holds to their schemas: every form of calls, by every grammar backend.

What a grammar lets through is read by the form's own parser.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from quire.contracts import (
    CallArguments,
    CallBegun,
    CallEnded,
    Content,
    Event,
    Grammar,
    GrammarSource,
    Tool,
    ToolParser,
    ToolParserInit,
)
from quire.testing.grammar_bench import GrammarBench
from quire_grammar_llguidance.backend import LLGuidance
from quire_grammar_xgrammar.backend import XGrammar
from quire_server.service.forcing import after_thinking, forced_calls, strict_calls
from quire_tool_parser_json.hermes import HermesParser
from quire_tool_parser_json.llama3 import Llama3Parser
from quire_tool_parser_json.mistral import MistralParser

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOLS = (Tool(name="get", parameters=SCHEMA, strict=True), Tool(name="f", parameters=SCHEMA))
GOOD, BAD = '{"n": 3}', '{"n": "x"}'
MARKS: dict[type[ToolParser], str] = {
    HermesParser: "<tool_call>",
    Llama3Parser: "<|python_tag|>",
    MistralParser: "[TOOL_CALLS]",
}

Parser = type[ToolParser]

backends = pytest.mark.parametrize("backend", [XGrammar, LLGuidance])
parsers = pytest.mark.parametrize("parser", list(MARKS))


@cache
def _bench(backend: type[Grammar]) -> GrammarBench:
    return GrammarBench(backend)


def _compiled(bench: GrammarBench, tag: dict[str, Any] | None) -> bytes:
    assert tag is not None
    return bench.grammar.compile(GrammarSource(form="structural_tag", text=json.dumps(tag)))


def _call(parser: Parser, name: str, arguments: str) -> str:
    (form,) = (call for call in parser.form(TOOLS).calls if call.name == name)
    return form.begin + arguments + form.end


def _alone(parser: Parser, *calls: str) -> str:
    form = parser.form(TOOLS)
    return form.begin + (form.separator or "").join(calls) + form.end


def _read(parser: Parser, text: str) -> list[Event]:
    one = parser(ToolParserInit(names=frozenset(tool.name for tool in TOOLS)))
    return [*one.feed(text), *one.finish()]


def _calls(events: list[Event]) -> list[tuple[str, Any]]:
    """Names and arguments of the calls that ended."""
    found: list[tuple[str, Any]] = []
    name, text = "", ""
    for event in events:
        if isinstance(event, CallBegun):
            name, text = event.name, ""
        elif isinstance(event, CallArguments):
            text += event.text
        elif isinstance(event, CallEnded):
            found.append((name, json.loads(text)))
    return found


@backends
@parsers
@pytest.mark.parametrize("thinking_end", [None, "</think>"])
def test_forced_calls(backend: type[Grammar], parser: Parser, thinking_end: str | None) -> None:
    bench, form = _bench(backend), parser.form(TOOLS)
    before = "" if thinking_end is None else f"Hm < </thin{thinking_end}"
    one, other = _call(parser, "f", GOOD), _call(parser, "get", GOOD)
    wrong = _call(parser, "get", BAD)
    for named, parallel, most in ((None, True, 2), (None, False, 1), ("f", True, 1)):
        tag = forced_calls(form, named=named, parallel=parallel, thinking_end=thinking_end)
        artefact = _compiled(bench, tag)
        assert bench.takes(artefact, before + _alone(parser, one))
        assert bench.takes(artefact, before + _alone(parser, one, other)) is (most > 1)
        assert bench.takes(artefact, before + _alone(parser, other)) is (named is None)
        for text in (_alone(parser, wrong), "Hello.", "", _alone(parser, one) + " and so on"):
            assert not bench.takes(artefact, before + text)


@backends
@parsers
def test_random_forced_calls_obey(backend: type[Grammar], parser: Parser) -> None:
    bench = _bench(backend)
    tag = forced_calls(parser.form(TOOLS), named=None, parallel=True, thinking_end=None)
    artefact, ended = _compiled(bench, tag), 0
    for seed in range(8):
        text = bench.write(artefact, seed)
        if text is None:
            continue
        ended += 1
        events = _read(parser, text)
        assert not any(isinstance(event, Content) for event in events)
        calls = _calls(events)
        assert calls
        assert all(Draft202012Validator(SCHEMA).is_valid(arguments) for _, arguments in calls)
    assert ended


@backends
@parsers
def test_strict_tools_obey_where_calls_are_free(backend: type[Grammar], parser: Parser) -> None:
    bench, mark = _bench(backend), MARKS[parser]
    tag = strict_calls(parser.form(TOOLS), TOOLS, parallel=True, thinking_end=None)
    artefact = _compiled(bench, tag)
    marked = mark if parser is not HermesParser else ""  # there it belongs to each call
    alone = {arguments: _alone(parser, _call(parser, "get", arguments)) for arguments in (GOOD, BAD)}
    free = _alone(parser, _call(parser, "f", '{"m": "x"}'))
    allowed = ["", "Hello.", "ä <b> [x] {y}", alone[GOOD], free, f"Well: {marked}{alone[GOOD]}"]
    allowed += [marked + alone[GOOD], f"So: {marked}{free}", f"\n {alone[GOOD]}"]
    both = _alone(parser, _call(parser, "get", GOOD), _call(parser, "f", '{"m": "x"}'))
    allowed += [both, marked + both, f"So: {marked}{both}"]
    for text in allowed:
        assert bench.takes(artefact, text), text
        assert all(name != "get" or arguments == {"n": 3} for name, arguments in _calls(_read(parser, text)))
    assert all(len(_calls(_read(parser, text))) == 2 for text in allowed if both in text)
    # Whatever lets the parser read a call of a strict tool that does not obey.
    several = _alone(parser, _call(parser, "f", GOOD), _call(parser, "get", BAD))
    assert not bench.takes(artefact, marked + several)
    for before in ("", " ", "Well: ", mark[0], f"{mark[0]} ", f"{mark} ", "\n\n"):
        for text in (before + alone[BAD], before + marked + alone[BAD]):
            if any(arguments != {"n": 3} for _, arguments in _calls(_read(parser, text))):
                assert not bench.takes(artefact, text), text


@backends
@parsers
def test_without_parallel_calls_there_is_one(backend: type[Grammar], parser: Parser) -> None:
    bench, call = _bench(backend), _call(parser, "get", GOOD)
    tag = strict_calls(parser.form(TOOLS), TOOLS, parallel=False, thinking_end="</think>")
    artefact = _compiled(bench, tag)
    assert bench.takes(artefact, f"Hm.</think>{_alone(parser, call)}")
    for mark in ("", MARKS[parser] if parser is not HermesParser else ""):
        assert not bench.takes(artefact, f"Hm.</think>{mark}{_alone(parser, call, call)}")


@backends
@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        (GrammarSource(form="json_object", text=""), '{"a": 1}', "[1]"),
        (GrammarSource(form="json_schema", text=json.dumps(SCHEMA)), GOOD, BAD),
        (GrammarSource(form="regex", text="a/b+"), "a/bb", "a/"),
        (GrammarSource(form="choice", text='["yes", "no/\\"n"]'), 'no/"n', "maybe"),
        (GrammarSource(form="grammar", text='root ::= "a" root | "b"'), "aab", "aa"),
    ],
)
def test_other_forms_behind_thinking(
    backend: type[Grammar], source: GrammarSource, good: str, bad: str
) -> None:
    bench = _bench(backend)
    artefact = _compiled(bench, after_thinking(source, "</think>"))
    assert bench.takes(artefact, f"Hm. </think>{good}")
    assert not bench.takes(artefact, f"Hm. </think>{bad}")
    assert not bench.takes(artefact, good)
