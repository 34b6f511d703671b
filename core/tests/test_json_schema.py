"""What is read out of schemas: their parts, their references, and which exclude each other."""

from __future__ import annotations

from typing import Any

import pytest

from quire.errors import InvalidRequestError
from quire.json_schema import are_disjoint, matches_type, parts, read_schema, resolve


@pytest.mark.parametrize("text", ["{", "3", '"a"', '{"a":' * 300 + "1" + "}" * 300, "[" * 100_000])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        read_schema(text)


def test_parts_have_their_places() -> None:
    schema: Any = {"properties": {"a": {"items": {"type": "null"}}}, "anyOf": [True, {"$defs": {"b": False}}]}
    places = {path for path, _ in parts(schema)}
    assert places == {
        "#",
        "#/properties/a",
        "#/properties/a/items",
        "#/anyOf/0",
        "#/anyOf/1",
        "#/anyOf/1/$defs/b",
    }


@pytest.mark.parametrize("schema", [{"properties": 3}, {"anyOf": {}}, {"items": 3}, {"$defs": {"a": 1}}])
def test_what_stands_where_a_schema_belongs_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequestError, match="no "):
        list(parts(schema))


def test_references_stay_within_the_schema() -> None:
    schema: Any = {"$defs": {"a/b": {"type": "null"}, "list": [True]}}
    assert resolve(schema, "#/$defs/a~1b") == {"type": "null"}
    assert resolve(schema, "#/$defs/list/0") is True
    assert resolve(schema, "#/nowhere") is None
    assert resolve(schema, "http://localhost/a") is None
    assert resolve(schema, "#") is schema


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        (1, "integer", True),
        (1.0, "integer", True),
        (1.5, "integer", False),
        (True, "integer", False),
        (True, "boolean", True),
        (None, "null", True),
        ("a", "string", True),
        ([], "array", True),
        ({}, "array", False),
    ],
)
def test_types_of_values(value: Any, name: str, expected: bool) -> None:
    assert matches_type(value, name) is expected


KIND: Any = {"type": "object", "required": ["k"]}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"type": "integer"}, {"type": "string"}, True),
        ({"type": "integer"}, {"type": "number"}, False),
        ({"const": 1}, {"enum": [2, "a"]}, True),
        ({"const": 1}, {"const": 1.0}, False),
        ({"const": 1}, {"type": "string"}, True),
        ({"type": "object"}, {"type": "object"}, False),
        (KIND | {"properties": {"k": {"const": 1}}}, KIND | {"properties": {"k": {"const": 2}}}, True),
        (
            KIND | {"properties": {"k": {"const": 1}}},
            {"type": "object", "properties": {"k": {"const": 2}}},
            False,
        ),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, {"type": "integer"}, True),
        ({"$ref": "#/$defs/a"}, {"type": "string"}, True),
        ({"$ref": "#/$defs/loop"}, {"type": "string"}, False),
        (True, {"type": "string"}, False),
    ],
)
def test_what_plainly_excludes(one: Any, other: Any, expected: bool) -> None:
    root: Any = {"$defs": {"a": {"type": "null"}, "loop": {"$ref": "#/$defs/loop"}}}
    assert are_disjoint(one, other, root) is expected
    assert are_disjoint(other, one, root) is expected
