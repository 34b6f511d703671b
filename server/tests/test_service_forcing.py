"""Structural tags of calls: whatever such a tag allows, the parser reads as calls and nothing else."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from quire import StructuredOutputsParams
from quire.contracts import (
    CallArguments,
    CallBegun,
    CallEnded,
    Content,
    Event,
    Reasoning,
    Tool,
    ToolParser,
    ToolParserInit,
)
from quire_server.service.answer import AnswerParser
from quire_server.service.forcing import after_thinking, forced_calls, strict_calls
from quire_tool_parser_json.hermes import HermesParser
from quire_tool_parser_json.llama3 import Llama3Parser
from quire_tool_parser_json.mistral import MistralParser

SCHEMA = {"type": "object", "properties": {"city": {"const": "Rome"}}, "required": ["city"]}
TOOLS = (Tool(name="get_weather", parameters=SCHEMA, strict=True), Tool(name="f"))
PARSERS = [HermesParser, Llama3Parser, MistralParser]


def texts(form: dict[str, Any], rng: random.Random) -> str:
    """A text that the format of a tag allows."""
    match form["type"]:
        case "const_string":
            return str(form["value"])
        case "regex":  # of white space, or of a text's first letter
            return "L" if form["pattern"].startswith("(") else " "
        case "or":
            return texts(rng.choice(form["elements"]), rng)
        case "any_text":
            return "Hm. "
        case "json_schema":
            return json.dumps({"city": "Rome"} if form["json_schema"] == SCHEMA else {"n": rng.randint(0, 9)})
        case "tag":
            return str(form["begin"] + texts(form["content"], rng) + form["end"])
        case "sequence":
            return "".join(texts(part, rng) for part in form["elements"])
        case "tags_with_separator":
            count = 1 if form["stop_after_first"] else rng.randint(1, 4)
            return str(form["separator"].join(texts(rng.choice(form["tags"]), rng) for _ in range(count)))
        case "triggered_tags":
            tag = rng.choice(form["tags"])
            assert any(tag["begin"].startswith(trigger) for trigger in form["triggers"])
            return f"Let me see. {texts(tag, rng)}"
        case "dispatch":
            pattern, part = rng.choice(form["rules"])
            return f"Let me see. {pattern}{texts(part, rng)}"
    raise AssertionError(form)


def read(parser_class: type[ToolParser], text: str) -> list[Event]:
    init = ToolParserInit(names=frozenset(tool.name for tool in TOOLS))
    parser = AnswerParser(None, parser_class(init))
    return [*parser.feed(text), *parser.finish()]


@pytest.mark.parametrize("parser_class", PARSERS)
@pytest.mark.parametrize(("named", "parallel"), [(None, True), (None, False), ("f", True)])
def test_forced_calls_are_calls_alone(
    parser_class: type[ToolParser], named: str | None, parallel: bool
) -> None:
    tag = forced_calls(parser_class.form(TOOLS), named=named, parallel=parallel, thinking_end=None)
    assert tag["type"] == "structural_tag"
    rng = random.Random(1)
    counts = set()
    for _ in range(50):
        events = read(parser_class, texts(tag["format"], rng))
        assert not any(isinstance(event, Content | Reasoning) for event in events)
        names = [event.name for event in events if isinstance(event, CallBegun)]
        assert sum(isinstance(event, CallEnded) for event in events) == len(names)
        assert named in (None, *names)
        counts.add(len(names))
    assert counts == ({1, 2, 3, 4} if parallel and named is None else {1})


def test_thinking_comes_before_forced_calls() -> None:
    tag = forced_calls(HermesParser.form(TOOLS), named=None, parallel=True, thinking_end="</think>")
    assert texts(tag["format"], random.Random(1)).startswith("Hm. </think><tool_call>")


def test_strict_tools_keep_their_schema_where_calls_are_free() -> None:
    tag = strict_calls(HermesParser.form(TOOLS), TOOLS, parallel=True, thinking_end=None)
    assert tag is not None
    schemas = [one["content"]["json_schema"] for one in tag["format"]["tags"]]
    assert schemas == [SCHEMA, {"type": "object"}]
    content, *call = read(HermesParser, texts(tag["format"], random.Random(1)))
    assert content == Content("Let me see.")
    assert isinstance(call[-1], CallEnded)


@pytest.mark.parametrize("parser_class", [Llama3Parser, MistralParser])
@pytest.mark.parametrize("parallel", [True, False])
def test_strict_tools_whose_calls_begin_the_answer(parser_class: type[ToolParser], parallel: bool) -> None:
    tag = strict_calls(parser_class.form(TOOLS), TOOLS, parallel=parallel, thinking_end="</think>")
    assert tag is not None
    *_, answer = tag["format"]["elements"]
    most = []
    for kind in answer["elements"]:
        counts = set()
        for seed in range(20):
            events = read(parser_class, texts(kind, random.Random(seed)))
            counts.add(sum(isinstance(event, CallEnded) for event in events))
            assert all(isinstance(event, CallBegun | CallArguments | CallEnded | Content) for event in events)
        most.append(max(counts))
    # Alone, behind the mark, and behind text and the mark; and nothing at all.
    assert most == ([4, 4, 4, 0] if parallel else [1, 1, 1, 0])


def test_a_form_without_a_trigger_has_no_strict_calls() -> None:
    form = replace(HermesParser.form(TOOLS), trigger=None)
    assert strict_calls(form, TOOLS, parallel=True, thinking_end=None) is None


@pytest.mark.parametrize(
    ("form", "element"),
    [
        ({"json": SCHEMA}, {"type": "json_schema", "json_schema": SCHEMA}),
        ({"json_object": True}, {"type": "json_schema", "json_schema": {"type": "object"}}),
        ({"regex": "a+"}, {"type": "regex", "pattern": "a+"}),
        ({"choice": ["a"]}, {"type": "or", "elements": [{"type": "const_string", "value": "a"}]}),
        ({"grammar": 'root ::= "a"'}, {"type": "grammar", "grammar": 'root ::= "a"'}),
    ],
)
def test_other_forms_stand_behind_the_thinking(form: dict[str, Any], element: dict[str, Any]) -> None:
    tag = after_thinking(StructuredOutputsParams(**form).source, "</think>")
    assert tag is not None
    thinking, answer = tag["format"]["elements"]
    assert (thinking["end"], answer) == ("</think>", element)


@pytest.mark.parametrize(
    "form",
    [{"grammar": 'start: "a"'}, {"json": SCHEMA, "disable_any_whitespace": True}, {"json": "{"}],
)
def test_a_form_that_cannot_stand_there_is_none(form: dict[str, Any]) -> None:
    assert after_thinking(StructuredOutputsParams(**form).source, "</think>") is None
