"""Checks of single sampling parameters: type, range and size, before anything is allocated.

Knows values and ranges, not what the parameters mean or which of them go together. Every check
returns the value in its plain form (int, float, list ...), copied where it is a container, and
raises `InvalidRequestError` naming field, value and permitted range otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

from quire.errors import InvalidRequestError

_SHOWN = 60  # characters of a value that a message repeats


def refuse(field: str, value: object, permitted: str) -> NoReturn:
    """Raise the error of a bad value; `permitted` completes "it must be ..."."""
    raise InvalidRequestError(f"{field} is {_shown(value)}: it must be {permitted}.", field=field)


def integer(field: str, value: object, low: int, high: int | None, *, permitted: str = "") -> int:
    """An integer (no bool) in [low, high]; `high` None for no upper bound."""
    permitted = permitted or (
        f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    )
    number = _whole(value)
    if number is None or number < low or (high is not None and number > high):
        refuse(field, value, permitted)
    return number


def real(
    field: str, value: object, low: float, high: float = math.inf, *, open_low: bool = False, permitted: str
) -> float:
    """A finite number (no bool) in [low, high], or in (low, high] if `open_low`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        refuse(field, value, permitted)
    try:
        number = float(value)
    except OverflowError:
        refuse(field, value, permitted)
    if not math.isfinite(number) or number > high or number < low or (open_low and number == low):
        refuse(field, value, permitted)
    return number


def boolean(field: str, value: object) -> bool:
    """True or False, nothing that merely counts as such."""
    if not isinstance(value, bool):
        refuse(field, value, "True or False")
    return value


def strings(field: str, value: object, most: int, longest: int) -> list[str]:
    """At most `most` strings of 1 to `longest` characters; None is none, one string is a list of one."""
    permitted = f"at most {most} strings of 1 to {longest} characters each"
    if value is None:
        return []
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray) or len(value) > most:
        refuse(field, value, permitted)
    for item in value:
        if not isinstance(item, str) or not 0 < len(item) <= longest:
            refuse(field, item, f"made of {permitted}")
    return list(value)


def token_ids(field: str, value: object, most: int) -> list[int]:
    """At most `most` integers; None is none. Whether they exist is the vocabulary's to say."""
    permitted = f"a list of at most {most} token ids"
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray) or len(value) > most:
        refuse(field, value, permitted)
    ids: list[int] = []
    for item in value:
        number = _whole(item)
        if number is None:
            refuse(field, item, f"{permitted}, which are integers")
        ids.append(number)
    return ids


def bias(field: str, value: object, most: int, bound: float) -> dict[int, float] | None:
    """A mapping of at most `most` token ids to numbers in [-bound, bound], or None."""
    permitted = f"a mapping of at most {most} integer token ids to numbers from {-bound:g} to {bound:g}"
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) > most:
        refuse(field, value, permitted)
    checked: dict[int, float] = {}
    for key, number in value.items():
        token = _whole(key)
        if token is None:
            refuse(field, key, f"{permitted}; this key is no integer")
        checked[token] = real(field, number, -bound, bound, permitted=permitted)
    return checked


def arguments(field: str, value: object) -> dict[str, Any] | None:
    """A mapping with names as keys, copied, or None."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        refuse(field, value, "a mapping of argument names to values, or None")
    return dict(value)


def in_vocabulary(field: str, ids: Sequence[int], vocab_size: int) -> None:
    """Every id in 0 .. vocab_size - 1; by `min` and `max`, for the list may be as long as the vocabulary."""
    if not ids:
        return
    for extreme in (min(ids), max(ids)):
        if not 0 <= extreme < vocab_size:
            refuse(field, extreme, f"made of token ids from 0 to {vocab_size - 1}, the model's vocabulary")


def _whole(value: object) -> int | None:
    """An integer as int; None for anything else, bool included."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return int(value)


def _shown(value: Any) -> str:
    """`repr`, but of bounded length and cost: the value is whatever a stranger sent."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes | bytearray):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}... ({len(value)} long)"
    if isinstance(value, int | float | None):
        return repr(value)
    if isinstance(value, Sequence | Mapping):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
