"""Results as JSON. Knows the output dataclasses' shape only through `dataclasses`."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

__all__ = ["to_json"]


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Dataclasses, mappings, lists and numbers as strict JSON; a number that is not finite is null."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
