"""The types of settings: what text and numbers they accept, and how they are written on one line.

Knows no setting by name.
"""

from __future__ import annotations

import os
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from quire._config_sources import KeyPath, Shape
from quire.contracts.kinds import KINDS

__all__ = [
    "NOT_BOOL",
    "Bytes",
    "Count",
    "Dtype",
    "Name",
    "PluginKey",
    "Threads",
    "field_shape",
    "not_built",
    "parse_bytes",
    "shapes_of",
]

_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b|b)\s*\Z", re.IGNORECASE)


def parse_bytes(value: object) -> object:
    """Bytes from text such as "2GiB", "500 MB" or "1.5TiB"; anything else is returned as it is.

    kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024.
    """
    if not isinstance(value, str) or value.strip().isdigit():
        return value
    match = _BYTES.match(value)
    if match is None:
        raise ValueError(f"must be a number of bytes such as 2147483648 or '2GiB', got {value!r}")
    number, unit = match[1], match[2].lower()
    base = 1024 if "i" in unit else 1000
    return int(float(number) * base ** "bkmgt".index(unit[0]))


def _not_bool(value: object) -> object:
    """YAML's `yes` must not become the number 1."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {value!r}")  # noqa: TRY004 - pydantic wraps ValueError alone
    return value


def _dtype_name(value: object) -> object:
    """Accepts `torch.bfloat16` beside "bfloat16", without importing torch."""
    return str(value).removeprefix("torch.") if type(value).__module__ == "torch" else value


def _thread_count(value: object) -> object:
    """Accepts "auto", or a number of at least 1 however it is written."""
    number = int(value) if isinstance(value, str) and value.strip().isdigit() else value
    if value == "auto" or (isinstance(number, int) and not isinstance(number, bool) and number > 0):
        return number
    raise ValueError(f"must be 'auto' or a number of at least 1, got {value!r}")


def _path_text(value: object) -> object:
    """Accepts a `pathlib.Path` where a name may also be a path."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def not_built(sentence: str, *accepted: object) -> AfterValidator:
    """Refuses every value but `accepted`: a setting that is known, and not built yet."""

    def check(value: object) -> object:
        if value not in accepted:
            raise ValueError(f"{sentence}, got {value!r}")
        return value

    return AfterValidator(check)


def _plugin_key(key: str) -> str:
    """Holds keys of plugin options to "kind.name"."""
    kind, _, name = key.partition(".")
    if kind not in KINDS or not name:
        raise ValueError(f"must be 'kind.name', such as 'attention.torch'; kinds are: {', '.join(KINDS)}")
    return key


NOT_BOOL = BeforeValidator(_not_bool)
Count = Annotated[int, NOT_BOOL, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1), NOT_BOOL, BeforeValidator(parse_bytes, json_schema_input_type=int | str)]
Dtype = Annotated[
    Literal["auto", "half", "float16", "bfloat16", "float", "float32"], BeforeValidator(_dtype_name)
]
Threads = Annotated[int | Literal["auto"], BeforeValidator(_thread_count)]
Name = Annotated[str, BeforeValidator(_path_text)]
PluginKey = Annotated[str, AfterValidator(_plugin_key)]


def field_shape(annotation: Any) -> Shape:
    """How a field of this type is written on one line: see `_config_sources.decode`."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return field_shape(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        shapes = {field_shape(arg) for arg in typing.get_args(annotation) if arg is not types.NoneType}
        return shapes.pop() if len(shapes) == 1 else "scalar"
    if origin is dict or annotation is dict:
        return "mapping"
    if origin is list or annotation is list:
        return "list"
    return "flag" if annotation is bool else "scalar"


def shapes_of(
    model: type[BaseModel], sections: Mapping[str, type[BaseModel]] | None = None
) -> dict[KeyPath, Shape]:
    """Key path and shape of every setting that a variable or flag can give, one level deep."""
    shapes: dict[KeyPath, Shape] = {}
    nested = dict(sections or {})
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested[name] = field.annotation
        else:
            shapes[(name,)] = field_shape(field.annotation)
    for name, part in nested.items():
        for key, field in part.model_fields.items():
            shapes[(name, key)] = field_shape(field.annotation)
    return shapes
