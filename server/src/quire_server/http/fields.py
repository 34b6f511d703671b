"""Request bodies: what is refused by name, and what is not known.

A body's model derives from `RequestModel` and lists in `refused` what clients may send and Quire cannot
do. An endpoint calls `examine(request, body)` first. Unknown fields end up in the response header
`X-Quire-Ignored-Fields` (the frame writes it) and once in the log; in strict mode they are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import DictSchema, no_info_before_validator_function
from starlette.requests import Request

from quire_server.errors import bad_request

logger = logging.getLogger(__name__)

_logged: set[str] = set()
_MAX_LOGGED = 1000  # names come from outside: the memory of what was logged is bounded
_MAX_NAMED = 20


_NO_SCHEMAS = ("default", "metadata", "serialization", "expected")
_COLLECTIONS = {"list", "set", "frozenset", "tuple"} | (
    {"dict"} if "fail_fast" in DictSchema.__annotations__ else set()  # pydantic 2.14 and later
)


def _fail_fast(part: Any) -> None:
    """Let collections, wherever they are in a core schema, end at their first wrong item, and models that
    forbid unknown fields at the first of these.
    """
    if isinstance(part, dict):
        kind = part.get("type")
        is_schema = isinstance(kind, str)  # else fields or choices by name, of which one may be called "type"
        if is_schema and kind in _COLLECTIONS:
            part["fail_fast"] = True
        if kind == "model" and part.get("config", {}).get("extra_fields_behavior") == "forbid":
            fields = part["schema"]
            if fields["type"] == "model-fields":
                part["schema"] = no_info_before_validator_function(_one_unknown(fields["fields"]), fields)
        for key, inner in part.items():
            if not (is_schema and key in _NO_SCHEMAS):
                _fail_fast(inner)
    elif isinstance(part, list | tuple):
        for inner in part:
            _fail_fast(inner)


def _one_unknown(fields: Collection[str]) -> Callable[[Any], Any]:
    """Leaves one unknown field in a value: an error for each could cost gigabytes."""

    def cut(value: Any) -> Any:
        if not isinstance(value, dict) or len(value) <= len(fields):
            return value
        known = {name: value[name] for name in fields if name in value}
        unknown = next(name for name in value if name not in fields)
        return {**known, unknown: value[unknown]}

    return cut


class BoundedModel(BaseModel):
    """An object in a body. Its errors take little memory, whatever it holds; every model in a body's derives
    from it, as pydantic compiles each by itself.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate up to the first of many faults: an error for each could cost gigabytes."""
        schema = handler(source)
        _fail_fast(schema)
        return schema


class RequestModel(BoundedModel):
    """A JSON body. Fields that no one declared are kept apart, in `model_extra`.

    Attributes:
        refused: fields that are known and cannot be served, with the reason; a value of None passes, and so
            do the values in `harmless`.
        harmless: per refused field the values that ask for nothing.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=(), allow_inf_nan=False)

    refused: ClassVar[Mapping[str, str]] = {}
    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {}


def examine(request: Request, body: RequestModel) -> None:
    """Refuse what cannot be served; note what is not known.

    Raises:
        ApiError: 400, with the field in `param`.
    """
    extra = body.model_extra or {}
    for name, reason in body.refused.items():
        value = extra.get(name)
        if value is not None and value not in body.harmless.get(name, ()):
            raise bad_request(f"{name} cannot be served: {reason}", name, "unsupported_parameter")
    unknown = list(islice((_printable(name) for name in extra if name not in body.refused), _MAX_NAMED))
    if not unknown:
        return
    if request.app.state.service.settings.strict:
        raise bad_request(
            f"Unknown field {unknown[0]!r}: this server runs in strict mode.", unknown[0], "unknown_parameter"
        )
    request.state.ignored_fields = unknown
    for name in unknown:
        if name not in _logged and len(_logged) < _MAX_LOGGED:
            _logged.add(name)
            logger.warning("Requests to %s have the unknown field %r; it is ignored", request.url.path, name)


def _printable(name: str) -> str:
    """A name as it may stand in a header and in a log."""
    return "".join(char if char.isascii() and char.isprintable() and char != "," else "?" for char in name)[
        :64
    ]
