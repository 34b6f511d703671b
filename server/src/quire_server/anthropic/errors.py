"""Errors in Anthropic's form, https://platform.claude.com/docs/en/api/errors."""

from __future__ import annotations

from typing import Any

from quire_server.errors import ApiError
from quire_server.request_record import current_record

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def render_error(error: ApiError) -> dict[str, Any]:
    """Body of an error response, and of an `error` event."""
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    record = current_record.get()
    return {
        "type": "error",
        "error": {"type": kind, "message": _message(error)},
        "request_id": None if record is None else record.request_id,
    }


def _message(error: ApiError) -> str:
    """The message; the form has no place of its own for the field."""
    if error.param is None or error.param in error.message:
        return error.message
    return f"{error.param}: {error.message}"
