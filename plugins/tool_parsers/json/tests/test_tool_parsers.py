"""What each form knows beyond the contract."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import (
    CallArguments,
    CallBegun,
    CallBroken,
    CallEnded,
    Content,
    Event,
    ToolParser,
    ToolParserInit,
)
from quire.testing.events import join_events
from quire_tool_parser_json.hermes import HermesParser
from quire_tool_parser_json.llama3 import Llama3Parser
from quire_tool_parser_json.mistral import MistralParser
from quire_tool_parser_json.scanner import JsonScanner, Scan

F: list[Event] = [CallBegun("f"), CallArguments('{"a": 1}'), CallEnded()]
NO_ARGUMENTS: list[Event] = [CallBegun("f"), CallArguments("{}"), CallEnded()]


def read(parser_class: type[ToolParser], pieces: Sequence[str]) -> list[Event]:
    parser = parser_class(ToolParserInit(names=frozenset({"f", "g"})))
    events = [event for piece in pieces for event in parser.feed(piece)]
    return join_events([*events, *parser.finish()])


CASES: list[tuple[type[ToolParser], str, list[Event]]] = [
    (HermesParser, '<tool_call>{"name": "f", "arguments": {"a": 1}}', F),  # the end tag is missing
    (
        HermesParser,
        '<tool_call>{"name": "f", "arguments": {"a": 1}}\n{"name": "f"}</tool_call>',
        [*F, *NO_ARGUMENTS],
    ),
    (HermesParser, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', F),
    (
        HermesParser,
        '<tool_call>{"id": "x", "type": "function", "name": "f", "parameters": {"a": 1}}</tool_call>',
        F,
    ),
    (
        HermesParser,
        '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n\nDone.',
        [*F, Content("\n\nDone.")],
    ),
    (HermesParser, "<tool_call></tool_call>", [Content("<tool_call></tool_call>")]),
    (HermesParser, "<tool_call><tool_call>", [Content("<tool_call><tool_call>")]),
    (
        HermesParser,
        'Yes <tool_call>{"name": "f", "arguments": {"a" 1}}</tool_call>',
        [
            Content("Yes"),
            CallBegun("f"),
            CallArguments('{"a" '),
            CallBroken(' <tool_call>{"name": "f", "arguments": {"a" '),
            Content("1}}</tool_call>"),
        ],
    ),
    (Llama3Parser, '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', F),
    (Llama3Parser, '\n{"name": "f", "parameters": {"a": 1}}; {"name": "f"}', [*F, *NO_ARGUMENTS]),
    (
        Llama3Parser,
        '<|python_tag|>{"name": "f", "parameters": {"a": 1}};{"name": "f"}\n{"name": "f"} ; ',
        [*F, *NO_ARGUMENTS, *NO_ARGUMENTS],
    ),
    (
        Llama3Parser,
        'So <|python_tag|>{"name": "f", "parameters": {"a": 1}}; <|python_tag|>{"name": "f"}<|python_tag|>{}',
        [Content("So"), *F, *NO_ARGUMENTS, Content("<|python_tag|>{}")],
    ),
    (
        Llama3Parser,
        '{"name": "f"}; <|python_tag|>{"name": "h"}',
        [*NO_ARGUMENTS, Content('; <|python_tag|>{"name": "h"}')],
    ),
    (Llama3Parser, '{"name": "f"} ; <|python and', [*NO_ARGUMENTS, Content(" ; <|python and")]),
    (Llama3Parser, '{"name": "f"};; x', [*NO_ARGUMENTS, Content(";; x")]),
    (Llama3Parser, '{"name": "Rome", "area": 1285}', [Content('{"name": "Rome", "area": 1285}')]),
    (Llama3Parser, 'It is {"name": "f"}', [Content('It is {"name": "f"}')]),
    (
        Llama3Parser,
        '<|python_tag|>search.call(query="x")',
        [Content('<|python_tag|>search.call(query="x")')],
    ),
    (
        MistralParser,
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "f"}]',
        [*F, *NO_ARGUMENTS],
    ),
    (MistralParser, '[TOOL_CALLS]f[ARGS]{"a": 1}', F),
    (MistralParser, '[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]f[CALL_ID]abc123XYZ[ARGS]{}', [*F, *NO_ARGUMENTS]),
    (MistralParser, '[{"name": "f", "arguments": {"a": 1}}]', F),
    (MistralParser, '[{"city": "Rome"}]', [Content('[{"city": "Rome"}]')]),
    (MistralParser, "[1] is a source", [Content("[1] is a source")]),
    (MistralParser, "[TOOL_CALLS]h[ARGS]{}", [Content("[TOOL_CALLS]h[ARGS]{}")]),
]


@pytest.mark.parametrize(("parser_class", "text", "events"), CASES)
def test_forms(parser_class: type[ToolParser], text: str, events: list[Event]) -> None:
    assert read(parser_class, [text]) == events
    assert read(parser_class, text) == events


def test_mistral_draws_ids_that_its_templates_take() -> None:
    for _ in range(20):
        drawn = MistralParser.draw_id()
        assert len(drawn) == 9
        assert drawn.isalnum()


MARKS = [
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|python_tag|>",
    '{"name": "f", "arguments": ',
    "{}",
]


@pytest.mark.parametrize("parser_class", [HermesParser, Llama3Parser, MistralParser])
@settings(deadline=None)
@given(
    parts=st.lists(st.sampled_from(MARKS) | st.text(max_size=4) | st.sampled_from(' \n,;[]{}":'), max_size=12)
)
def test_cut_anywhere(parser_class: type[ToolParser], parts: list[str]) -> None:
    whole = read(parser_class, ["".join(parts)])
    assert read(parser_class, parts) == whole
    assert read(parser_class, "".join(parts)) == whole


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(deadline=None)
@given(value=json_values, ascii_only=st.booleans(), indent=st.none() | st.just(1))
def test_json_ends_where_it_ends(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    scanner = JsonScanner()
    assert scanner.feed(text + " ,", 0) == len(text)
    assert scanner.state is Scan.DONE


@settings(deadline=None)
@given(text=st.text(alphabet='{}[]",:\\u0123456789.eE+-tfnrualse \n\tA\x01', max_size=20))
def test_what_is_scanned_as_json_is_json(text: str) -> None:
    """What Python's reader, at its strictest, takes for a whole value is one; what it does not is none."""

    def refuse(name: str) -> float:
        raise ValueError(name)

    try:
        value, end = json.JSONDecoder(parse_constant=refuse).raw_decode(text.lstrip(" \n\t\r"))
    except ValueError:
        value = end = None
    scanner = JsonScanner()
    found = scanner.feed(text + ",", 0)
    if scanner.state is Scan.DONE:
        assert json.loads(text[:found]) == value
    elif end is not None:
        # The scanner reads on where a number could: "1e" is not a 1 and then an e.
        assert isinstance(value, int | float)
