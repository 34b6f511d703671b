"""Structural tags for llguidance: free text, and parts in it that follow a schema, in Lark's notation.

Of XGrammar's notations the older `{"structures": [{"begin", "schema", "end"}], "triggers": [...]}`, which
vLLM's users write too, and of those with a `format` what calls and forms behind thinking are written in.

Free text ends where a lazy lexeme does: at the first place where what ends it is found.
"""

from __future__ import annotations

import json
from typing import Any

from quire.errors import InvalidRequestError
from quire_grammar_llguidance.schema import WHITESPACE, prepared

__all__ = ["tags_as_grammar"]

_MAX_DEPTH = 50


def tags_as_grammar(text: str) -> str:
    """The grammar of structural tags, as llguidance takes it.

    Raises:
        InvalidRequestError: they are malformed, or hold what is not known here.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"structural_tag is no JSON: {error}.", field="structural_tag") from error
    if not isinstance(said, dict):
        raise _refused("it is no object")
    if "format" not in said:
        said = {"format": _as_format(said)}
    writer = _Writer()
    start = writer.element(said["format"], 0)
    return writer.grammars(start)


def _as_format(said: dict[str, Any]) -> dict[str, Any]:
    structures, triggers = said.get("structures"), said.get("triggers")
    if not (isinstance(structures, list) and structures and isinstance(triggers, list)):
        raise _refused("it needs lists of 'structures' and 'triggers'")
    tags = []
    for one in structures:
        if not (isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("begin", "end"))):
            raise _refused("a structure needs 'begin', 'schema' and 'end'")
        content = {"type": "json_schema", "json_schema": one.get("schema", {})}
        tags.append({"type": "tag", "begin": one["begin"], "content": content, "end": one["end"]})
    return {"type": "triggered_tags", "triggers": triggers, "tags": tags}


class _Writer:
    """Writes rules; each element is an expression that later rules may use."""

    def __init__(self) -> None:
        self._rules: list[str] = []
        self._others: list[dict[str, str]] = []  # grammars of their own

    def grammars(self, start: str) -> str:
        """All of it, beginning with an expression."""
        lark = "\n".join([f"start: {start}", *self._rules, "FREE: /(.|\\n)*/", ""])
        return json.dumps({"grammars": [{"name": "tags", "lark_grammar": lark}, *self._others]})

    def element(self, said: Any, depth: int) -> str:
        """The expression of a format."""
        if depth > _MAX_DEPTH:
            raise _refused("it is nested too deep")
        if not isinstance(said, dict):
            raise _refused("a format is no object")
        kind, below = said.get("type"), depth + 1
        if kind == "const_string":
            return _quoted(_of(said, "value", str))
        if kind == "any_text":
            return "FREE"
        if kind == "json_schema":
            return self._rule(f"%json {_schema(said.get('json_schema'))}")
        if kind == "regex":
            return self._other(_regex(_of(said, "pattern", str)))
        if kind == "grammar":
            return self._other(_lark(_of(said, "grammar", str)))
        if kind in ("sequence", "or"):
            parts = [self.element(one, below) for one in _of(said, "elements", list)]
            return self._rule((" " if kind == "sequence" else " | ").join(parts))
        if kind == "tag":
            return self._tag(said, below)
        if kind == "tags_with_separator":
            return self._separated(said, below)
        if kind == "triggered_tags":
            return self._triggered(said, below)
        if kind == "dispatch":
            return self._dispatch(said, below)
        raise _refused(f"llguidance has no format {str(kind)[:100]!r}: the backend xgrammar may")

    def _tag(self, said: dict[str, Any], depth: int, after: str = "") -> str:
        """A tag, or what of it follows `after`."""
        begin, end = _of(said, "begin", str)[len(after) :], _of(said, "end", str)
        content = said.get("content")
        if isinstance(content, dict) and content.get("type") == "any_text" and end:
            return self._rule(f"{_quoted(begin)} {self._until(end)}")
        return self._rule(f"{_quoted(begin)} {self.element(content, depth)} {_quoted(end)}")

    def _separated(self, said: dict[str, Any], depth: int) -> str:
        tag = self._rule(" | ".join(self._tag(one, depth) for one in _of(said, "tags", list)))
        if not said.get("stop_after_first"):
            tag = self._rule(f"{tag} ({_quoted(said.get('separator') or '')} {tag})*")
        return tag if said.get("at_least_one") else self._rule(f"{tag}?")

    def _triggered(self, said: dict[str, Any], depth: int) -> str:
        """Text in which nothing but a tag begins with a trigger."""
        triggers = _of(said, "triggers", list)
        of_trigger: dict[str, list[str]] = {}
        for one in _of(said, "tags", list):
            begin = _of(one, "begin", str) if isinstance(one, dict) else ""
            found = next((t for t in triggers if isinstance(t, str) and t and begin.startswith(t)), None)
            if found is None:
                raise _refused(f"no trigger begins {begin[:100]!r}")
            of_trigger.setdefault(found, []).append(self._tag(one, depth, found))
        calls = [f"{self._until(trigger)} ({' | '.join(tags)})" for trigger, tags in of_trigger.items()]
        once, required = bool(said.get("stop_after_first")), bool(said.get("at_least_one"))
        return self._in_text(calls, once=once, required=required)

    def _dispatch(self, said: dict[str, Any], depth: int) -> str:
        """Text in which behind each pattern stands what belongs to it."""
        if said.get("excludes"):
            raise _refused("llguidance knows no 'excludes' in a dispatch: the backend xgrammar may")
        parts = []
        for rule in _of(said, "rules", list):
            if not (isinstance(rule, list) and len(rule) == 2 and isinstance(rule[0], str) and rule[0]):
                raise _refused(f"{str(rule)[:100]} is no pair of a pattern and a format")
            parts.append(f"{self._until(rule[0])} {self.element(rule[1], depth)}")
        return self._in_text(parts, once=not said.get("loop", True), required=False)

    def _in_text(self, parts: list[str], *, once: bool, required: bool) -> str:
        """Parts that begin with text up to them; nothing follows the one, text the last of several."""
        part = self._rule(" | ".join(parts))
        if once:
            return part if required else self._rule(f"{part} | FREE")
        return self._rule(f"{part}{'+' if required else '*'} FREE")

    def _until(self, end: str) -> str:
        """Free text up to an end, which is part of it."""
        return self._rule(f"FREE {_quoted(end)}", "[lazy]")

    def _rule(self, body: str, options: str = "") -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def _other(self, lark: str) -> str:
        name = f"g{len(self._others)}"
        self._others.append({"name": name, "lark_grammar": lark})
        return f"@{name}"


def _schema(schema: Any) -> str:
    found = json.loads(prepared(json.dumps(schema)))
    if found is True:
        found = {}
    if isinstance(found, dict):
        found["x-guidance"] = {"whitespace_pattern": WHITESPACE, "coerce_one_of": True}
    return json.dumps(found, ensure_ascii=False)


def _lark(text: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(text))
    except Exception as error:  # its converter raises what it stumbles over
        raise _refused(f"its grammar cannot be read: {str(error)[:500]}") from error


def _regex(pattern: str) -> str:
    """A grammar of texts that a regular expression matches."""
    from llguidance import LLMatcher

    return str(json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]["lark_grammar"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else '""'


def _of(said: dict[str, Any], key: str, kind: type) -> Any:
    value = said.get(key) if isinstance(said, dict) else None
    if not isinstance(value, kind) or (kind is list and not value):
        raise _refused(f"{str(said)[:100]!r} needs {key!r}")
    return value


def _refused(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"structural_tag cannot be used: {why}.", field="structural_tag")
