"""From what a client sends to `SamplingParams`. Shared by every front end; knows no dialect."""

from __future__ import annotations

from typing import Any

from quire import SamplingParams
from quire.errors import InvalidRequestError
from quire_server.errors import bad_request, from_engine

MOST = 2**31 - 1
"""Largest count: the engine's wire carries no integer of any size."""

_COUNTS = ("max_tokens", "min_tokens", "top_k", "logprobs", "prompt_logprobs", "thinking_token_budget")


def sampling_params(defaults: SamplingParams, **given: Any) -> SamplingParams:
    """A request's parameters: what it gives, over the model's defaults.

    Args:
        defaults: `engine.get_default_sampling_params()`.
        given: by their names in `SamplingParams`; None is "not given". `max_tokens` is never taken from the
            defaults: not given, it is None, which leaves the limit to the server's settings or to what fits.

    Raises:
        ApiError: 400, with the field in `param`.
    """
    found = {name: value for name, value in given.items() if value is not None}
    for name in _COUNTS:
        value = found.get(name)
        if isinstance(value, int) and value > MOST:
            raise bad_request(f"{name} is too large: at most {MOST} is allowed.", name)
    found.setdefault("max_tokens", None)
    try:
        return defaults.over(**found)
    except InvalidRequestError as error:
        raise from_engine(error) from error


def priority(value: int | None) -> int:
    """A scheduling priority that the engine's wire can carry.

    Raises:
        ApiError: 400, it is too large or too small.
    """
    if value is not None and not -MOST <= value <= MOST:
        raise bad_request(f"priority is out of range: {-MOST} to {MOST} is allowed.", "priority")
    return value or 0
