"""Some hundreds of JSON Schemas, made by code: what structured output is tried on.

Every feature on its own, and objects nested out of all of them. Values are bounded, so that a model that
writes nonsense comes to an end too. Knows JSON Schema; knows no grammar backend.
"""

from __future__ import annotations

import random
from typing import Any

__all__ = ["schema_corpus"]

Made = dict[str, Any]

_NAMES = [
    "name",
    "age",
    "id",
    "größe",
    "タグ",
    "first name",
    "is_ok",
    "x",
    'quo"ted',
    "price",
    "naïve",
    "line\nbreak",
]
_WORDS = ["red", "green", "blue", "été", "日本", "🙂", 'say "hi"', "back\\slash", "a b", "tab\t", "N/A"]
_PATTERNS = [
    "^[a-z]{2,6}$",
    "^[A-Z]{3}-[0-9]{4}$",
    r"^\d{1,3}(\.\d{1,3}){3}$",
    "^(yes|no|maybe)$",
    "^#[0-9a-f]{6}$",
]
_FORMATS = ["date", "time", "date-time", "uuid", "ipv4"]


def schema_corpus(count: int, seed: int = 0) -> list[tuple[str, Made]]:
    """So many schemas, each with the name of its feature; the same ones for the same arguments."""
    rng = random.Random(seed)
    features = list(_FEATURES.items())
    made = []
    for i in range(count):
        name, make = features[i % len(features)]
        made.append((f"{name}-{i}", make(rng)))
    return made


def _integer(rng: random.Random) -> Made:
    low = rng.randint(-1000, 1000)
    schema: Made = {"type": "integer"}
    schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
    schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([2, 9, 150, 99_999])
    return schema


def _number(rng: random.Random) -> Made:
    low = rng.choice([-2.5, 0, 0.001, 1.5, 100, -1e3])
    return {"type": "number", "minimum": low, "maximum": low + rng.choice([0.5, 1, 12.25, 1000])}


def _string(rng: random.Random) -> Made:
    low = rng.randint(0, 3)
    return {"type": "string", "minLength": low, "maxLength": low + rng.randint(0, 12)}


def _pattern(rng: random.Random) -> Made:
    return {"type": "string", "pattern": rng.choice(_PATTERNS)}


def _format(rng: random.Random) -> Made:
    return {"type": "string", "format": rng.choice(_FORMATS)}


def _enum(rng: random.Random) -> Made:
    values: list[Any] = rng.sample(_WORDS, rng.randint(1, 4))
    return {"enum": [*values, *rng.sample([1, -2.5, None, True, {"a": [1]}], rng.randint(0, 2))]}


def _const(rng: random.Random) -> Made:
    return {"const": rng.choice([rng.choice(_WORDS), 7, None, False, {"k": ["v", 1]}])}


def _nullable(rng: random.Random) -> Made:
    if rng.random() < 0.5:
        return {"type": ["boolean", "null"]}
    return {"type": ["integer", "null"], "minimum": 0, "maximum": rng.choice([1, 250, 10_000])}


_LEAVES = [_integer, _number, _string, _pattern, _format, _enum, _const, _nullable]


def _leaf(rng: random.Random) -> Made:
    return rng.choice(_LEAVES)(rng)


def _array(rng: random.Random) -> Made:
    low = rng.randint(0, 2)
    return {"type": "array", "items": _leaf(rng), "minItems": low, "maxItems": low + rng.randint(0, 2)}


def _tuple(rng: random.Random) -> Made:
    first = [_leaf(rng) for _ in range(rng.randint(1, 3))]
    return {
        "type": "array",
        "prefixItems": first,
        "items": False,
        "minItems": len(first),
        "maxItems": len(first),
    }


def _object(rng: random.Random, depth: int = 0) -> Made:
    names = rng.sample(_NAMES, rng.randint(1, 4))
    kinds = [_leaf, _leaf, _array] + ([_object_below(depth)] if depth < 3 else [])
    properties = {name: rng.choice(kinds)(rng) for name in names}
    required = [name for name in names if rng.random() < 0.7]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _object_below(depth: int) -> Any:
    return lambda rng: _object(rng, depth + 1)


def _nested(rng: random.Random) -> Made:
    return {
        "type": "object",
        "properties": {"outer": _object(rng, 1), "list": {**_array(rng), "items": _object(rng, 2)}},
        "required": ["outer", "list"],
        "additionalProperties": False,
    }


def _any_of(rng: random.Random) -> Made:
    return {"anyOf": [_leaf(rng), _object(rng, 2), {"type": "null"}]}


def _one_of(rng: random.Random) -> Made:
    def branch(kind: str) -> Made:
        properties = {"kind": {"const": kind}, rng.choice(_NAMES): _leaf(rng)}
        return {"type": "object", "properties": properties, "required": list(properties)}

    return {"oneOf": [branch("circle"), branch("square"), {"type": "integer", "minimum": 0, "maximum": 9}]}


def _recursive(rng: random.Random) -> Made:
    child = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
    several = {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1}
    node = {
        "type": "object",
        "properties": {"value": _leaf(rng), "next": rng.choice([child, several])},
        "required": ["value"],
        "additionalProperties": False,
    }
    return {"$defs": {"node": node}, "$ref": "#/$defs/node"}


def _references(rng: random.Random) -> Made:
    point = {"$ref": "#/$defs/point"}
    sides = {"x": _number(rng), "y": _number(rng)}
    shape = {"type": "object", "properties": sides, "required": ["x", "y"], "additionalProperties": False}
    whole = {"from": point, "to": point, "label": _enum(rng)}
    return {"$defs": {"point": shape}, "type": "object", "properties": whole, "required": ["from", "to"]}


_FEATURES = {
    "integer": _integer,
    "number": _number,
    "string": _string,
    "pattern": _pattern,
    "format": _format,
    "enum": _enum,
    "const": _const,
    "nullable": _nullable,
    "array": _array,
    "tuple": _tuple,
    "object": _object,
    "nested": _nested,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "recursive": _recursive,
    "references": _references,
}
