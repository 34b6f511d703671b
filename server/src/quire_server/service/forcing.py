"""Calls that a grammar holds to their schemas, as a structural tag; other forms, behind thinking.

A structural tag is XGrammar's description of text with parts that follow a JSON schema, in the notation that
has a `format`. Knows parsers' forms; knows no engine and no request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from quire.contracts import CallsForm, Tool
from quire.contracts.grammar import GrammarSource

__all__ = ["after_thinking", "forced_calls", "strict_calls"]

_ANY = {"type": "object"}


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
    tags = [_tag(call.begin, call.schema, call.end) for call in form.calls if named in (None, call.name)]
    calls = {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": form.separator or "",
        "at_least_one": True,
        "stop_after_first": named is not None or not parallel or form.separator is None,
    }
    return _structural([*_thinking(thinking_end), *_text(form.begin), calls, *_text(form.end)])


def strict_calls(
    form: CallsForm, tools: Sequence[Tool], *, parallel: bool, thinking_end: str | None
) -> dict[str, Any] | None:
    """The tag of an answer in which calls are free, and arguments of strict tools are not.

    Returns:
        None: nothing in this form tells where a call begins.
    """
    if form.trigger is None:
        return None
    strict = {tool.name for tool in tools if tool.strict}
    calls = {
        "type": "triggered_tags",
        "triggers": [form.trigger],
        "tags": [
            _tag(call.begin, call.schema if call.name in strict else _ANY, call.end) for call in form.calls
        ],
        "at_least_one": False,
        "stop_after_first": not parallel,
    }
    return _structural([*_thinking(thinking_end), calls])


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


def _structural(elements: list[dict[str, Any]]) -> dict[str, Any]:
    form = elements[0] if len(elements) == 1 else {"type": "sequence", "elements": elements}
    return {"type": "structural_tag", "format": form}


def _tag(begin: str, schema: Any, end: str) -> dict[str, Any]:
    content = {"type": "json_schema", "json_schema": dict(schema)}
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "const_string", "value": text}] if text else []


def _thinking(end: str | None) -> list[dict[str, Any]]:
    return [] if end is None else [{"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": end}]
