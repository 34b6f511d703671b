"""Reading JSON Schemas: their parts, their references, and which of them exclude each other.

For grammar backends, which must know what a schema says before they promise to hold it. Knows JSON Schema
(draft 2020-12, and what older drafts spelt otherwise); validates nothing, and fetches nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from quire.errors import InvalidRequestError

__all__ = ["Schema", "are_disjoint", "matches_type", "parts", "read_schema", "refuse", "resolve"]

Schema: TypeAlias = "Mapping[str, Any] | bool"

MAX_DEPTH = 200
"""Levels of nesting that a schema may have, its values included."""

_ONE = ("items", "additionalProperties", "propertyNames", "not", "if", "then", "else", "contains")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_MAX_FOLLOWED = 32  # references in a chain, and levels of alternatives, that are looked through


def refuse(what: str, path: str, backend: str) -> InvalidRequestError:
    """The error of a schema that uses what a backend cannot hold."""
    return InvalidRequestError(
        f"The JSON schema has {what} at {path}, which {backend} cannot hold.", field="json"
    )


def read_schema(text: str) -> Schema:
    """The schema in a text.

    Raises:
        InvalidRequestError: it is no JSON, no schema, or too deep.
    """
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The JSON schema is no JSON: {error}.", field="json") from error
    if not isinstance(schema, dict | bool):
        raise InvalidRequestError(
            f"The JSON schema must be an object, not {type(schema).__name__}.", field="json"
        )
    stack: list[tuple[Any, int]] = [(schema, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise InvalidRequestError(
                f"The JSON schema is nested deeper than {MAX_DEPTH} levels: make it flatter.", field="json"
            )
        if isinstance(value, dict):
            stack += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            stack += [(inner, depth + 1) for inner in value]
    return schema


def parts(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schema and every schema in it, each with its JSON pointer.

    Raises:
        InvalidRequestError: something stands where a schema belongs.
    """
    stack: list[tuple[str, Any]] = [("#", schema)]
    while stack:
        path, one = stack.pop()
        if not isinstance(one, dict | bool):
            raise InvalidRequestError(f"The JSON schema has no schema at {path}.", field="json")
        yield path, one
        if isinstance(one, bool):
            continue
        stack += [
            (f"{path}/{key}", one[key]) for key in _ONE if key in one and not isinstance(one[key], list)
        ]
        for key in _SEVERAL:
            if key in one:
                stack += [
                    (f"{path}/{key}/{i}", inner) for i, inner in enumerate(_list(one[key], f"{path}/{key}"))
                ]
        for key in _NAMED:
            if key in one:
                stack += [
                    (f"{path}/{key}/{name}", inner) for name, inner in _object(one[key], f"{path}/{key}")
                ]


def resolve(root: Schema, reference: str) -> Schema | None:
    """What a reference within the schema means; None if it leads nowhere, or out of the schema."""
    if not reference.startswith("#"):
        return None
    target: Any = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isascii() and key.isdigit() and int(key) < len(target):
            target = target[int(key)]
        else:
            return None
    return target if isinstance(target, dict | bool) else None


def matches_type(value: Any, name: str) -> bool:
    """Whether a JSON value is of a type as JSON Schema names it."""
    if isinstance(value, bool) or value is None:
        return name == ("null" if value is None else "boolean")
    if isinstance(value, int | float):
        return name == "number" or (name == "integer" and float(value).is_integer())
    kinds = {"string": str, "array": list, "object": dict}
    return name in kinds and isinstance(value, kinds[name])


def are_disjoint(one: Schema, other: Schema, root: Schema) -> bool:
    """Whether plainly no value is of both schemas: by types, by values, or by a required property."""
    return _disjoint(one, other, root, 0)


def _disjoint(one: Schema, other: Schema, root: Schema, depth: int) -> bool:
    if depth > _MAX_FOLLOWED:
        return False
    first, second = _followed(one, root), _followed(other, root)
    if first is None or second is None:
        return False
    for branches, rest in ((_branches(first), second), (_branches(second), first)):
        if branches is not None:
            return all(_disjoint(branch, rest, root, depth + 1) for branch in branches)
    types, others = _types(first), _types(second)
    if types is not None and others is not None and not _overlap(types, others):
        return True
    values, more = _values(first), _values(second)
    if values is not None and more is not None:
        return not any(_key(value) in {_key(one) for one in more} for value in values)
    for known, rules in ((values, others), (more, types)):
        if known is not None and rules is not None:
            return not any(matches_type(value, name) for value in known for name in rules)
    return types == others == {"object"} and _told_apart(first, second, root, depth)


def _told_apart(first: Mapping[str, Any], second: Mapping[str, Any], root: Schema, depth: int) -> bool:
    """Whether objects differ in a property that both must have."""
    shared = set(first.get("required") or ()) & set(second.get("required") or ())
    left, right = first.get("properties") or {}, second.get("properties") or {}
    return any(
        name in left and name in right and _disjoint(left[name], right[name], root, depth + 1)
        for name in sorted(shared)
    )


def _followed(schema: Any, root: Schema) -> Mapping[str, Any] | None:
    for _ in range(_MAX_FOLLOWED):
        if not isinstance(schema, dict):
            return None
        if "$ref" not in schema:
            return schema
        schema = resolve(root, str(schema["$ref"]))
    return None


def _branches(schema: Mapping[str, Any]) -> list[Any] | None:
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return list(schema[key])
    return None


def _types(schema: Mapping[str, Any]) -> set[str] | None:
    named = schema.get("type")
    if isinstance(named, str):
        return {named}
    if isinstance(named, list):
        return {str(one) for one in named}
    return None


def _overlap(types: set[str], others: set[str]) -> bool:
    if types & others:
        return True
    return ("integer" in types and "number" in others) or ("number" in types and "integer" in others)


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if isinstance(schema.get("enum"), list) else None


def _key(value: Any) -> str:
    """Equal for equal JSON values: 1 and 1.0 are the same number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _list(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequestError(f"The JSON schema has no list at {path}.", field="json")
    return value


def _object(value: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise InvalidRequestError(f"The JSON schema has no object at {path}.", field="json")
    return list(value.items())
