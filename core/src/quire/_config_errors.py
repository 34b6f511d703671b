"""Turns what pydantic finds wrong with a configuration into one line per problem, for people.

Knows no field of Quire's own. Never repeats what was given for a secret, wrong as it may be.
"""

from __future__ import annotations

import difflib
import reprlib
import typing
from typing import TYPE_CHECKING, Any

from quire._config_sources import KeyPath, Layer, origin_of
from quire._config_vllm import ELSEWHERE
from quire.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

__all__ = ["explain"]


def explain(
    error: ValidationError, model: type[BaseModel], layers: list[Layer], *, prefix: KeyPath = ()
) -> ConfigError:
    """The same error as a `ConfigError`: a line per problem with origin, key, expectation and value.

    Args:
        model: what was being validated.
        layers: where the values came from, highest precedence first.
        prefix: key path of `model` within the whole configuration.
    """
    lines: list[tuple[tuple[str, int], str]] = []
    for problem in error.errors(include_url=False):
        path = (*prefix, *(key for key in problem["loc"] if key != "[key]"))
        origin = origin_of(layers, path)
        where = f"{origin}: " if _is_place(origin) else ""
        name = ".".join(str(key) for key in path)
        text = f"{where}{name + ': ' if name else ''}{_problem(problem, model)}"
        lines.append((_reading_order(origin or ""), text))
    return ConfigError("\n".join(text for _, text in sorted(lines)))


def _reading_order(origin: str) -> tuple[str, int]:
    """Sorts "file:9" before "file:10"."""
    place, _, line = origin.rpartition(":")
    return (place, int(line)) if line.isdigit() else (origin, 0)


def _is_place(origin: str | None) -> bool:
    """Whether an origin is somewhere to look: a line of a file or a variable, not the call itself."""
    return origin is not None and origin not in ("keyword", "command line")


def _problem(problem: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong, and what would do."""
    message = problem["msg"]
    match problem["type"]:
        case "extra_forbidden":
            return _unknown(problem["loc"], model)
        case "value_error":
            return message.removeprefix("Value error, ")
        case "missing":
            return "is missing"
        case _:
            message = message.removeprefix("Input should be ")
            verb = "must be " if message != problem["msg"] else ""
            given = "" if _is_secret(problem["loc"], model) else f", got {reprlib.repr(problem['input'])}"
            return f"{verb}{message}{given}"


def _is_secret(loc: tuple[int | str, ...], model: type[BaseModel]) -> bool:
    """Whether the field that a problem is in, or the innermost model's field around it, keeps secrets."""
    annotation: Any = model
    for key in loc:
        field = getattr(annotation, "model_fields", {}).get(key)
        if field is None:
            break
        annotation = field.annotation
    return _mentions_secret(annotation)


def _mentions_secret(annotation: Any) -> bool:
    if getattr(annotation, "get_secret_value", None) is not None:  # pydantic's Secret, SecretStr, SecretBytes
        return True
    return any(_mentions_secret(part) for part in typing.get_args(annotation))


def _unknown(loc: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """An unknown name: what to use instead if vLLM has it, else the nearest known one."""
    name = str(loc[-1])
    if len(loc) == 1 and name in ELSEWHERE:
        return f"Quire has no such option: {ELSEWHERE[name]}"
    owner: Any = model
    for key in loc[:-1]:
        field = getattr(owner, "model_fields", {}).get(key)
        owner = None if field is None else field.annotation
    known = list(getattr(owner, "model_fields", {}))
    near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}"
    return f"unknown option; {hint}"
