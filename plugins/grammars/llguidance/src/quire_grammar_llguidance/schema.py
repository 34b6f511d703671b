"""JSON Schemas as llguidance takes them. It refuses what it does not know, so little is left to do here.

Objects that list their properties are closed, unless the schema says otherwise: a model that may invent names
writes on for ever, and so does one that may add decimals to a number in a range: they are bounded. `oneOf` is
taken for `anyOf` where its schemas plainly exclude each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from quire.json_schema import Schema, are_disjoint, parts, read_schema, refuse

__all__ = ["WHITESPACE", "prepared"]

_DECIMALS = 6
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_TOGETHER = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "unevaluatedProperties")


WHITESPACE = r"[ \n\r\t]{0,8}"
"""Between two tokens of JSON: enough to indent a little, and an end to it."""


def prepared(text: str) -> str:
    """The schema for llguidance, as JSON.

    Raises:
        InvalidRequestError: it is malformed, or has a `oneOf` that llguidance would not hold.
    """
    schema = read_schema(text)
    for path, part in parts(schema):
        if isinstance(part, dict):
            _check_one_of(part, path, schema)
            # Schemas of an `allOf` hold together: closed one by one, they would allow nothing.
            if "properties" in part and "/allOf/" not in f"{path}/" and not _says_more(part):
                part.setdefault("additionalProperties", False)
            _bound_decimals(part)
            part.pop("x-guidance", None)  # options of the compiler are not the request's
    return json.dumps(schema, ensure_ascii=False)


def _says_more(part: Mapping[str, Any]) -> bool:
    return any(name in part for name in _TOGETHER)


def _bound_decimals(part: dict[str, Any]) -> None:
    """Of a number in a range no more decimals than some, unless the range itself needs more."""
    types = part.get("type")
    if types != "number" and not (isinstance(types, list) and "number" in types):
        return
    bounds = [part[name] for name in _BOUNDS if isinstance(part.get(name), int | float)]
    exponents = [Decimal(repr(bound)).as_tuple().exponent for bound in bounds]
    given = [-exponent for exponent in exponents if isinstance(exponent, int)]
    if given and max(given) + 2 <= _DECIMALS:
        part.setdefault("multipleOf", 10.0**-_DECIMALS)


def _check_one_of(part: Mapping[str, Any], path: str, root: Schema) -> None:
    branches = part.get("oneOf", [])
    for i, one in enumerate(branches):
        if not all(are_disjoint(one, other, root) for other in branches[:i]):
            raise refuse("'oneOf' of schemas that may overlap (write 'anyOf')", path, "llguidance")
