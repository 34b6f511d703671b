"""What of JSON Schema XGrammar holds. It passes over what it does not know, so that is refused here, by name.

A keyword is held if no output that the grammar lets through breaks it. Where XGrammar allows less than a
schema does (a pattern matches the whole string, an object keeps the order of its properties), nothing is
broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from quire.json_schema import Schema, are_disjoint, matches_type, parts, read_schema, refuse, resolve

__all__ = ["prepared"]

_NAME = "xgrammar"
_MAX_LENGTH = 100_000
_NEVER = (
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "dependentRequired"),
    *("dependentSchemas", "dependencies", "unevaluatedItems", "unevaluatedProperties", "additionalItems"),
    *("$dynamicRef", "$recursiveRef"),
)
_OF_TYPE = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties"),
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
}
_ALL = {name for names in _OF_TYPE.values() for name in names}
_CHOICES = ("$ref", "anyOf", "oneOf", "allOf")
_FORMATS = {
    *("date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "email", "uri"),
    *("uri-reference", "uri-template", "json-pointer", "relative-json-pointer"),
}


_UNSAFE = re.compile(r'"|\\\\|\\[xuc0nrtfv]')
"""In a pattern: what may write a quote, a backslash or a control character, which JSON must escape."""


def prepared(text: str) -> str:
    """A schema as XGrammar is given it, as JSON.

    Raises:
        InvalidRequestError: it is malformed, or XGrammar would not hold it; names the keyword and its place.
    """
    schema = read_schema(text)
    for path, part in parts(schema):
        if isinstance(part, dict):
            _check(part, path, schema)
    # Afterwards: parts may be met again through references.
    for _, part in parts(schema):
        if isinstance(part, dict):
            _bound_string(part)
    return json.dumps(schema, ensure_ascii=False)


def _bound_string(part: dict[str, Any]) -> None:
    """Lengths as a pattern of what JSON need not escape: XGrammar's own lets control characters through."""
    if not {"minLength", "maxLength"} & set(part):
        return
    low, high = part.pop("minLength", 0), part.pop("maxLength", "")
    part["pattern"] = rf'^[^"\\\x00-\x1f]{{{low},{high}}}$'


def _check(part: Mapping[str, Any], path: str, root: Schema) -> None:
    for name in _NEVER:
        if name in part:
            raise refuse(repr(name), path, _NAME)
    if part.get("uniqueItems"):
        raise refuse("'uniqueItems'", path, _NAME)
    said = [name for name in part if name in _ALL and name != "uniqueItems"]
    chosen = [name for name in _CHOICES if name in part]
    if chosen:
        _check_choice(part, path, root, chosen, said)
        return
    types = _types(part, path)
    if "enum" in part or "const" in part:
        _check_values(part, path, types, said)
        return
    if types is None:
        if said and not {"properties", "items"} & set(said):
            raise refuse(f"{said[0]!r} without a 'type'", path, _NAME)
        types = ["object"] if "properties" in part else ["array"] if "items" in part else []
    held = {name for one in types for name in _OF_TYPE.get(one, ())}
    for name in said:
        if name not in held:
            raise refuse(f"{name!r} for the type {' or '.join(types)}", path, _NAME)
    if "string" in types:
        _check_string(part, path)
    if "number" in types and "multipleOf" in part:
        raise refuse("'multipleOf' for numbers that are no integers", path, _NAME)
    if "integer" in types and "multipleOf" in part and len(set(said) & set(_OF_TYPE["integer"])) > 1:
        raise refuse("'multipleOf' beside a range", path, _NAME)
    if "object" in types:
        _check_object(part, path)
    if isinstance(part.get("items"), list):
        raise refuse("a list of 'items' (write 'prefixItems')", path, _NAME)


def _check_choice(
    part: Mapping[str, Any], path: str, root: Schema, chosen: list[str], said: list[str]
) -> None:
    beside = [name for name in (*chosen[1:], *said, "type", "enum", "const") if name in part]
    if beside:
        raise refuse(f"{beside[0]!r} beside {chosen[0]!r}", path, _NAME)
    if chosen[0] == "$ref":
        if resolve(root, str(part["$ref"])) is None:
            raise refuse(f"a '$ref' to {part['$ref']!r}, which is not in the schema", path, _NAME)
        return
    branches = part[chosen[0]]
    if chosen[0] == "allOf" and len(branches) != 1:
        raise refuse("'allOf' of several schemas", path, _NAME)
    if chosen[0] == "oneOf":
        for i, one in enumerate(branches):
            if not all(are_disjoint(one, other, root) for other in branches[:i]):
                raise refuse("'oneOf' of schemas that may overlap (write 'anyOf')", path, _NAME)


def _types(part: Mapping[str, Any], path: str) -> list[str] | None:
    named = part.get("type")
    if named is None:
        return None
    types = named if isinstance(named, list) else [named]
    for one in types:
        if one not in ("string", "number", "integer", "object", "array", "boolean", "null"):
            raise refuse(f"the 'type' {one!r}", path, _NAME)
    return [str(one) for one in types]


def _check_values(part: Mapping[str, Any], path: str, types: list[str] | None, said: list[str]) -> None:
    if said or ("enum" in part and "const" in part):
        raise refuse(f"{said[0] if said else 'const'!r} beside the values it may have", path, _NAME)
    values = part["enum"] if "enum" in part else [part["const"]]
    if not isinstance(values, list) or not values:
        raise refuse("an 'enum' that is no list of values", path, _NAME)
    for value in values:
        if types is not None and not any(matches_type(value, one) for one in types):
            raise refuse("a value that is not of its 'type'", path, _NAME)


def _check_string(part: Mapping[str, Any], path: str) -> None:
    rules = [name for name in ("pattern", "format") if name in part]
    sizes = [name for name in ("minLength", "maxLength") if name in part]
    if rules and len(rules) + len(sizes) > 1:
        raise refuse(f"{(rules[1:] + sizes)[0]!r} beside {rules[0]!r}", path, _NAME)
    if _UNSAFE.search(str(part.get("pattern", ""))):
        raise refuse("a 'pattern' with characters that JSON escapes", path, _NAME)
    for name in sizes:
        if not isinstance(part[name], int) or not 0 <= part[name] <= _MAX_LENGTH:
            raise refuse(f"a {name!r} that is no number up to {_MAX_LENGTH}", path, _NAME)
    if part.get("minLength", 0) > part.get("maxLength", _MAX_LENGTH):
        raise refuse("a 'minLength' above its 'maxLength'", path, _NAME)
    if "format" in part and part["format"] not in _FORMATS:
        raise refuse(f"the 'format' {part['format']!r}", path, _NAME)


def _check_object(part: Mapping[str, Any], path: str) -> None:
    properties = part.get("properties") or {}
    for name in part.get("required") or ():
        if name not in properties:
            raise refuse(f"the 'required' property {name!r}, of which nothing more is said", path, _NAME)
    others = part.get("additionalProperties", not properties)
    if any(_UNSAFE.search(str(pattern)) for pattern in part.get("patternProperties") or ()):
        raise refuse("a name's pattern with characters that JSON escapes", path, _NAME)
    named = [name for name in ("patternProperties", "propertyNames") if name in part]
    if named and (properties or len(named) > 1 or part.get("additionalProperties", False) is not False):
        raise refuse(f"{named[0]!r} beside other properties", path, _NAME)
    # A name may come twice, and counts once.
    if (part.get("minProperties") or 0) > 1 and (named or others is not False):
        raise refuse("'minProperties' of properties without names", path, _NAME)
