"""Errors as responses: whatever went wrong, in the form of the dialect whose path was asked for.

Knows where an error came from (a front end, validation, the router), and no dialect's form. Nothing of an
exception that was not meant for clients reaches one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from quire_server.errors import ApiError, bad_request, not_found
from quire_server.front_end import ErrorForm, FrontEnd, openai_error

_MAX_REASONS = 3
_MAX_EXAMINED = 100
_MAX_SHOWN = 60  # characters of a value that an error repeats


class ErrorForms:
    """Which form an error takes, by the path that was asked for; the longest prefix wins."""

    def __init__(self, front_ends: Sequence[FrontEnd], default: ErrorForm = openai_error) -> None:
        forms = [
            (prefix.rstrip("/"), one.render_error) for one in front_ends for prefix in one.error_prefixes
        ]
        self._forms = sorted(forms, key=lambda form: -len(form[0]))
        self._default = default

    def response(self, scope: Scope, error: ApiError) -> Response:
        """The error as a response to the request of `scope`."""
        path = route_path(scope)
        form = next(
            (form for prefix, form in self._forms if path == prefix or path.startswith(prefix + "/")),
            self._default,
        )
        # A lone surrogate that came in as \ud800 has no UTF-8 form.
        body = json.dumps(form(error), ensure_ascii=False).encode(errors="replace")
        return Response(body, error.status, error.headers, "application/json")


def route_path(scope: Scope) -> str:
    """The path that routes are matched against: without the prefix under which a proxy shows the server."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    inside = root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")
    return path[len(root) :] if inside else path


def from_validation(error: RequestValidationError) -> ApiError:
    """400 that names the first wrong field, and all that is wrong with it."""
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it cannot be read")
        return bad_request(f"The body is not valid JSON: {reason} at character {first['loc'][-1]}.")
    named = [
        (
            field_name(one["loc"], error.body, missing=one["type"] == "missing"),
            (str(one["msg"]).removeprefix("Value error, ").rstrip("."), _given(one)),
        )
        for one in problems[:_MAX_EXAMINED]
    ]
    field = named[0][0]
    if field is None:
        return bad_request(
            "The body must be a JSON object, sent with the header 'Content-Type: application/json'."
        )
    # Of the members of a union the one that got furthest is what the client meant.
    inside = [
        name for name, _ in named if name == field or (name or "").startswith((field + ".", field + "["))
    ]
    param = max(inside, key=lambda name: str(name).count(".") + str(name).count("["))
    reasons = [reason for name, reason in named if name == param]
    said = "; ".join(list(dict.fromkeys(message for message, _ in reasons))[:_MAX_REASONS]) + reasons[-1][1]
    return bad_request(f"{param}: {said}.", param)


def _given(problem: Mapping[str, Any]) -> str:
    """What was given, as JSON, if it is a plain value. Only pydantic's own reasons leave it out."""
    value = problem.get("input")
    if not isinstance(value, str | int | float) or problem["type"] in ("missing", "value_error"):
        return ""
    text = json.dumps(value)
    return f", got {text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '...'}"


def field_name(loc: Sequence[Any], body: Any, *, missing: bool) -> str | None:
    """A field as clients write it, `messages[0].role`; None for the body as a whole.

    Args:
        loc: pydantic's location. It begins with where the field was looked for; among the parts that lead
            through the body stand the names of the union members that were tried, which are no fields.
        body: the parsed body.
        missing: the last part is a field that is not there.
    """
    if loc and loc[0] != "body":
        return str(loc[-1])
    name, value = "", body
    for position, part in enumerate(loc[1:], start=2):
        if isinstance(value, dict) and part in value:
            value = value[part]
            name += f".{part}"
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
            name += f"[{part}]"
        elif missing and position == len(loc):
            name += f".{part}"
    return name.removeprefix(".")[:200] or None


def from_http(error: HTTPException, scope: Scope) -> ApiError:
    """What the router and FastAPI itself refuse."""
    method, path = scope["method"], route_path(scope)[:200]
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return not_found(f"There is nothing at {method} {path!r}.", code="not_found")
    if error.status_code == 405:
        allowed = headers.get("Allow", "")
        message = f"{path!r} does not take {method}" + (f"; it takes {allowed}." if allowed else ".")
        return ApiError(405, message, code="method_not_allowed", headers=headers)
    if error.status_code == 400:
        return bad_request("The body cannot be read: it must be JSON in UTF-8, and not nested too deeply.")
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return ApiError(error.status_code, str(error.detail), kind=kind, headers=headers)


def internal(request_id: str) -> ApiError:
    """500 that says nothing but where to look."""
    return ApiError(
        500,
        f"The server failed at this request. Its log has the reason under request id {request_id}.",
        kind="server_error",
        code="internal_error",
    )


def handlers(forms: ErrorForms) -> dict[Any, Any]:
    """Exception handlers for the app; what none of them knows is `internal`."""

    async def api(request: Request, error: ApiError) -> Response:
        return forms.response(request.scope, error)

    async def validation(request: Request, error: RequestValidationError) -> Response:
        return forms.response(request.scope, from_validation(error))

    async def router(request: Request, error: HTTPException) -> Response:
        return forms.response(request.scope, from_http(error, request.scope))

    async def nesting(request: Request, error: RecursionError) -> Response:
        return forms.response(request.scope, bad_request("The request is nested too deeply."))

    return {
        ApiError: api,
        RequestValidationError: validation,
        HTTPException: router,
        RecursionError: nesting,
    }
