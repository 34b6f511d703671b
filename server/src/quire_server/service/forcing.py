"""Calls that a grammar holds to their schemas, as a structural tag; other forms, behind thinking.

A structural tag is XGrammar's description of text with parts that follow a JSON schema, in the notation that
has a `format`. Knows parsers' forms; knows no engine and no request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quire.contracts import CallsForm, Tool
from quire.contracts.grammar import GrammarSource

__all__ = ["after_thinking", "forced_calls", "strict_calls"]

_ANY = {"type": "object"}
_SPACE = r"[ \t\n\r]{0,8}"


def forced_calls(
    form: CallsForm, *, named: str | None, parallel: bool, thinking_end: str | None
) -> dict[str, Any]:
    """The tag of an answer that is nothing but calls, at least one.

    Args:
        form: of all tools.
        named: the one tool that is to be called, once; None for any of them.
        parallel: several calls are allowed, where the form has room for them.
        thinking_end: what ends the thinking that comes first; None if none does.
    """
    calls = _calls(form, named=named, parallel=parallel)
    return _structural([*_thinking(thinking_end), *calls])


def strict_calls(
    form: CallsForm, tools: Sequence[Tool], *, parallel: bool, thinking_end: str | None
) -> dict[str, Any] | None:
    """The tag of an answer in which calls are free, and arguments of strict tools are not.

    Returns:
        None: nothing in this form tells where a call begins.
    """
    trigger = form.trigger
    if trigger is None:
        return None
    strict = {tool.name for tool in tools if tool.strict}
    form = replace(
        form, calls=tuple(one if one.name in strict else replace(one, schema=_ANY) for one in form.calls)
    )
    calls = _sequence(_calls(form, parallel=parallel))
    if all(call.begin.startswith(trigger) for call in form.calls):
        text = {
            "type": "triggered_tags",
            "triggers": [trigger],
            "tags": [_tag(call.begin, call.schema, call.end) for call in form.calls],
            "at_least_one": False,
            "stop_after_first": not parallel,
        }
    else:
        text = {"type": "dispatch", "rules": [[trigger, calls]], "loop": False}
    if form.start is None:
        return _structural([*_thinking(thinking_end), text])
    kinds = [
        calls,
        _sequence([*_text(trigger), calls]),
        _sequence([_regex(_no_beginning(trigger, form.start)), text]),
        _regex("[ ]?"),  # nothing at all
    ]
    return _structural([*_thinking(thinking_end), _regex(_SPACE), {"type": "or", "elements": kinds}])


def after_thinking(source: GrammarSource, thinking_end: str) -> dict[str, Any] | None:
    """The tag of an answer of some form, behind thinking that is free.

    Returns:
        None: this form cannot follow anything else, or is malformed.
    """
    if source.compact or source.whitespace is not None:
        return None
    try:
        form = _element(source)
    except (ValueError, RecursionError):
        return None
    return None if form is None else _structural([*_thinking(thinking_end), form])


def _element(source: GrammarSource) -> dict[str, Any] | None:
    text = source.text
    match source.form:
        case "json_object":
            return {"type": "json_schema", "json_schema": _ANY}
        case "json_schema":
            return {"type": "json_schema", "json_schema": json.loads(text)}
        case "regex":
            return {"type": "regex", "pattern": text}
        case "choice":
            return {
                "type": "or",
                "elements": [{"type": "const_string", "value": v} for v in json.loads(text)],
            }
        case "grammar" if "::=" in text:
            return {"type": "grammar", "grammar": text}
    return None


def _calls(form: CallsForm, *, named: str | None = None, parallel: bool) -> list[dict[str, Any]]:
    """Calls, at least one, with what is around all of them."""
    tags = [_tag(call.begin, call.schema, call.end) for call in form.calls if named in (None, call.name)]
    calls = {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": form.separator or "",
        "at_least_one": True,
        "stop_after_first": named is not None or not parallel or form.separator is None,
    }
    return [*_text(form.begin), calls, *_text(form.end)]


def _no_beginning(*beginnings: str) -> str:
    """A regular expression of the first characters of a text that begins with none of these, nor with white
    space: one that none has there, or one that some have and then one that none of those has next."""
    firsts = sorted({one[0] for one in beginnings})
    ways = [f"[^ \\t\\n\\r{_in_class(firsts)}]"]
    for first in firsts:
        seconds = [one[1:2] for one in beginnings if one[0] == first]
        if all(seconds):  # neither may a beginning follow at once
            ways.append(f"[{_in_class([first])}][^{_in_class(sorted({*seconds, *firsts}))}]")
    return f"({'|'.join(ways)})"


def _in_class(chars: Sequence[str]) -> str:
    return "".join(f"\\{char}" if char in "[]^-\\" else char for char in chars)


def _regex(pattern: str) -> dict[str, Any]:
    return {"type": "regex", "pattern": pattern}


def _sequence(elements: list[dict[str, Any]]) -> dict[str, Any]:
    return elements[0] if len(elements) == 1 else {"type": "sequence", "elements": elements}


def _structural(elements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "structural_tag", "format": _sequence(elements)}


def _tag(begin: str, schema: Any, end: str) -> dict[str, Any]:
    content = {"type": "json_schema", "json_schema": dict(schema)}
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "const_string", "value": text}] if text else []


def _thinking(end: str | None) -> list[dict[str, Any]]:
    return [] if end is None else [{"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": end}]
