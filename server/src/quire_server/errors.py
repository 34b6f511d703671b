"""What an HTTP request can fail with. Each dialect gives it a form of its own (`FrontEnd.render_error`).

    ApiError                    status, message, kind, code, param, headers
    ├── bad_request             400, the field in `param`
    ├── unauthorized            401
    ├── not_found               404
    ├── too_large               413
    ├── overloaded              429 with Retry-After
    ├── failed                  500
    └── unavailable             503

Messages name the thing, the value and the way out, and never an address, a path or a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from quire.errors import InvalidRequestError

RETRY_AFTER = 1
"""Seconds. A step is far shorter, and a seat may be free after any step."""


_INTERNAL = re.compile(
    r"0x[0-9a-fA-F]{4,}|\b(?:tcp|ipc|inproc|unix|file)://\S+|(?<![\w/])(?:/[\w.@+-]+){2,}/?"
)
"""Memory addresses, sockets, and absolute paths: what text of the engine's may hold and no client needs."""


class ApiError(Exception):
    """An answer other than success.

    Attributes:
        status: HTTP status.
        message: for people.
        kind: OpenAI's error type.
        code: machine-readable reason, or None.
        param: the offending field, or None.
        headers: further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request can never be served as it stands."""
    return ApiError(400, message, param=param, code=code)


def from_engine(error: InvalidRequestError) -> ApiError:
    """400 for what the engine refuses."""
    long = "maximum context length" in str(error)
    return bad_request(str(error), error.field, "context_length_exceeded" if long else None)


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Give fields the names that a dialect has for them, in the errors raised within.

    Args:
        names: the service's and the engine's name of a field -> the dialect's.

    Raises:
        ApiError: as it was raised, with the field under the dialect's name.
    """
    try:
        yield
    except ApiError as error:
        old = error.param
        if old is not None and old in names:
            error.param = names[old]
            if error.message.startswith(f"{old} "):
                error.message = names[old] + error.message[len(old) :]
        raise


def unauthorized(message: str) -> ApiError:
    """401: no key, or a wrong one."""
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, code="invalid_api_key", headers=headers)


def not_found(message: str, code: str | None = None, param: str | None = None) -> ApiError:
    """404: no such route, model or response."""
    return ApiError(404, message, code=code, param=param)


def too_large(message: str) -> ApiError:
    """413: the body is larger than `max_body_bytes`."""
    return ApiError(413, message, code="request_too_large")


def overloaded(message: str) -> ApiError:
    """429: the queue is full."""
    headers = {"Retry-After": str(RETRY_AFTER)}
    return ApiError(429, message, kind="rate_limit_error", code="queue_full", headers=headers)


def failed(message: str) -> ApiError:
    """500: the request failed inside the engine."""
    return ApiError(500, told(message), kind="server_error", code="engine_error")


def unavailable(message: str, code: str = "unavailable") -> ApiError:
    """503: the engine is loading, dead, hung, or the server is about to stop."""
    headers = {"Retry-After": str(RETRY_AFTER)}
    return ApiError(503, told(message), kind="server_error", code=code, headers=headers)


def told(message: str) -> str:
    """A message of the engine's as clients may read it."""
    return _INTERNAL.sub("...", message)
