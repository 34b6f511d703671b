"""Prompts of completions: a text, token ids, or a list of either."""

from __future__ import annotations

from typing import Any

from quire_server.errors import ApiError, bad_request

_FORMS = "a string, a list of strings, a list of token ids, or a list of such lists"


def read_prompts(value: Any, vocab_size: int, most: int) -> list[str | list[int]]:
    """Each prompt of a request.

    Args:
        value: as it came.
        vocab_size: token ids are below it.
        most: prompts allowed.

    Raises:
        ApiError: 400 for `prompt`.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise bad_request(f"prompt must be {_FORMS}.", "prompt")
    if not value:
        raise bad_request("prompt is an empty list: it needs at least one prompt.", "prompt")
    if isinstance(value[0], int):
        return [read_ids(value, "prompt", vocab_size)]
    if len(value) > most:
        raise bad_request(f"{len(value)} prompts in one request; at most {most} are allowed.", "prompt")
    return [_one(item, vocab_size) for item in value]


def read_ids(value: Any, name: str, vocab_size: int) -> list[int]:
    """Token ids that exist.

    Raises:
        ApiError: 400 for `name`.
    """
    if not isinstance(value, list):
        raise bad_request(f"{name} must be a list of token ids.", name)
    for token in value:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise _no_token(token, name, vocab_size)
    return value


def _one(item: Any, vocab_size: int) -> str | list[int]:
    if isinstance(item, str):
        return item
    if not isinstance(item, list):
        raise bad_request(f"prompt must be {_FORMS}.", "prompt")
    return read_ids(item, "prompt", vocab_size)


def _no_token(value: Any, name: str, vocab_size: int) -> ApiError:
    if type(value) is int:
        shown = str(value) if value.bit_length() <= 128 else "a huge integer"
    else:
        shown = f"a {type(value).__name__}"
    return bad_request(
        f"{name} holds {shown}, which is no token id: they are integers from 0 to {vocab_size - 1}.", name
    )
