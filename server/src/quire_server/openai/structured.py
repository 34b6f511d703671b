"""The fields that ask for a form of the answer: OpenAI's `response_format`, and vLLM's names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from quire import StructuredOutputsParams
from quire_server.errors import bad_request
from quire_server.service.structured import form, format_form

_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "structural_tag": "structural_tag",
}
_KNOWN = {one.name for one in dataclasses.fields(StructuredOutputsParams)}


def structured_outputs(
    response_format: Any, given: Any, whitespace: str | None, guided: Mapping[str, Any]
) -> StructuredOutputsParams | None:
    """The one form that a body asks for.

    Args:
        response_format, given: the fields `response_format` and `structured_outputs`.
        whitespace: `guided_whitespace_pattern`.
        guided: the older fields by name; None is "not given".

    Raises:
        ApiError: 400, it asks for several, or for one that is malformed.
    """
    found: dict[str, StructuredOutputsParams] = {}
    if (asked := format_form(response_format, "response_format", "json_schema")) is not None:
        found["response_format"] = asked
    if given is not None:
        found["structured_outputs"] = _given(given)
    for name, value in guided.items():
        if value is not None:
            found[name] = form(name, **{_GUIDED[name]: value}, whitespace_pattern=whitespace)
    if whitespace is not None and not found.keys() & guided.keys():
        raise bad_request(
            "guided_whitespace_pattern goes with guided_json. structured_outputs has whitespace_pattern.",
            "guided_whitespace_pattern",
        )
    if len(found) > 1:
        first, second, *_ = found
        raise bad_request(f"{first} and {second} both say what the answer must be: send one.", second)
    return next(iter(found.values()), None)


def _given(value: Any) -> StructuredOutputsParams:
    if not isinstance(value, dict):
        raise bad_request("structured_outputs must be an object.", "structured_outputs")
    for name in value:
        if name not in _KNOWN:
            raise bad_request(
                f"Unknown field {name[:64]!r} in structured_outputs. Known are: {', '.join(sorted(_KNOWN))}.",
                "structured_outputs",
            )
    plain = {name: one for name, one in value.items() if one is not None}
    return form("structured_outputs", **plain)
