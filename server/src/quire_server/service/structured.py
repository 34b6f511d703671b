"""The form that an answer must have, out of what clients send for it. Shared by every front end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from quire import StructuredOutputsParams
from quire.contracts.grammar import GrammarForm
from quire.errors import InvalidRequestError
from quire_server.errors import bad_request

__all__ = ["form", "form_names", "format_form"]

_FORMS = (*get_args(GrammarForm), "json", "structured_outputs", "whitespace_pattern")


def form_names(param: str) -> dict[str, str]:
    """For `naming`: whatever the engine calls a form that it refuses, `param` is the client's name for it."""
    return dict.fromkeys(_FORMS, param)


def form(param: str, **given: Any) -> StructuredOutputsParams:
    """What an answer must look like.

    Args:
        param: the client's field, for errors.
        given: by the names of `StructuredOutputsParams`.

    Raises:
        ApiError: 400, with the field in `param`.
    """
    try:
        return StructuredOutputsParams(**given)
    except (InvalidRequestError, TypeError) as error:
        raise bad_request(f"{param} cannot be used: {error}", param) from error


def format_form(value: Any, param: str, schema_key: str | None = None) -> StructuredOutputsParams | None:
    """The form that a `format` object asks for: `{"type": "json_schema", "schema": ...}` and its kin.

    Args:
        value: what the client sent; None for nothing.
        param: its field, for errors.
        schema_key: an object in it that holds the `schema`, as OpenAI's chats have it; None where it is
            beside the type.

    Returns:
        None for plain text.

    Raises:
        ApiError: 400, it is none of these.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise bad_request(f"{param} must be an object with a type.", param)
    match value["type"]:
        case "text":
            return None
        case "json_object":
            return form(param, json_object=True)
        case "json_schema":
            inner = value if schema_key is None else value.get(schema_key)
            schema = inner.get("schema") if isinstance(inner, Mapping) else None
            if not isinstance(schema, dict | bool):
                where = f"{param}.{schema_key}.schema" if schema_key else f"{param}.schema"
                raise bad_request(f"{where} must be a JSON Schema.", where)
            return form(param, json=schema)
        case "structural_tag":
            return form(param, structural_tag=dict(value))
        case other:
            raise bad_request(
                f"{param}.type is {other[:64]!r}: "
                "it must be text, json_object, json_schema or structural_tag.",
                param,
            )
