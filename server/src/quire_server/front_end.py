"""A front end: one dialect's routes and the form its errors take. What a `RouteSpec` target returns.

A target is called as `target(service, options)`, with the `quire_server.service.Service` that every
front end shares and the plugin's validated options (None if it has no options model).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from quire_server.errors import ApiError

ErrorForm = Callable[[ApiError], dict[str, Any]]


def openai_error(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
    }


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """Routes of one dialect.

    Attributes:
        router: its routes, with full paths.
        render_error: body of an error response.
        error_prefixes: paths whose errors take this form, those without a route (404, 401) included.
        public: paths of its routes that need no key. Every other route needs one when keys are set.
    """

    router: APIRouter
    render_error: ErrorForm = openai_error
    error_prefixes: tuple[str, ...] = ()
    public: frozenset[str] = frozenset()
