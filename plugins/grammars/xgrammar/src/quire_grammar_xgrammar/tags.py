"""Structural tags as XGrammar takes them: the older notation is written anew, schemas are checked."""

from __future__ import annotations

import json
from typing import Any

from quire.errors import InvalidRequestError
from quire_grammar_xgrammar.schema import prepared

__all__ = ["tags_as_format"]

_MAX_DEPTH = 50
_MAX_WHITESPACE = 8  # as in schemas of their own


def tags_as_format(text: str) -> str:
    """Structural tags with a `format`, as JSON.

    Raises:
        InvalidRequestError: they are malformed, or a schema in them cannot be held.
    """
    try:
        said = json.loads(text)
        if isinstance(said, dict) and "structures" in said:
            said = {"type": "structural_tag", "format": _format(said)}
        return json.dumps(_checked(said, 0), ensure_ascii=False)
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise InvalidRequestError(
            f"structural_tag cannot be read: {type(error).__name__}: {error}.", field="structural_tag"
        ) from error


def _format(said: dict[str, Any]) -> dict[str, Any]:
    tags = [
        {
            "type": "tag",
            "begin": one["begin"],
            "content": {"type": "json_schema", "json_schema": one.get("schema", {})},
            "end": one["end"],
        }
        for one in said["structures"]
    ]
    return {"type": "triggered_tags", "triggers": said["triggers"], "tags": tags}


def _checked(value: Any, depth: int) -> Any:
    """The same with every schema as XGrammar is given it, and white space that ends."""
    if depth > _MAX_DEPTH:
        raise InvalidRequestError("structural_tag is nested too deep.", field="structural_tag")
    if isinstance(value, list):
        return [_checked(one, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    found = {
        key: json.loads(prepared(json.dumps(one))) if key == "json_schema" else _checked(one, depth + 1)
        for key, one in value.items()
    }
    if value.get("type") == "json_schema":
        asked = value.get("max_whitespace_cnt")
        found["max_whitespace_cnt"] = min(asked, _MAX_WHITESPACE) if type(asked) is int else _MAX_WHITESPACE
    return found
