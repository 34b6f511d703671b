"""Request bodies: how large, how slow, how encoded, and what JSON they may hold.

A body is read whole before the application runs, so that every route, mounted ones too, has the same limits.
Knows no dialect; what fields mean is the front ends' matter.
"""

from __future__ import annotations

import asyncio
import json
from typing import NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire_server.config import ServeConfig
from quire_server.errors import ApiError, bad_request, too_large
from quire_server.http.errors import ErrorForms
from quire_server.metrics import ServerMetrics

_SUSPICIOUS = (b"NaN", b"Infinity", b"\\ud", b"\\uD")
"""What JSON that is valid and can be encoded again rarely has; only bodies with it are looked at closely."""


class BodyMiddleware:
    """Reads the body within the limits and hands it on in one piece."""

    def __init__(
        self, app: ASGIApp, *, settings: ServeConfig, forms: ErrorForms, metrics: ServerMetrics
    ) -> None:
        self.app = app
        self._limit = settings.max_body_bytes
        self._timeout = settings.read_timeout
        self._forms = forms
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400, 408, 413 or 415."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0":
            await self.app(scope, receive, send)
            return
        try:
            self._check_headers(headers)
            body = await self._read(receive)
            if body is None:
                return
            check_json(body)
        except ApiError as error:
            self._metrics.rejected(error.code or "bad_body")
            await self._forms.response(scope, error)(scope, receive, send)
            return
        whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is None:
                return await receive()
            message, whole = whole, None
            return message

        await self.app(scope, replay, send)

    def _check_headers(self, headers: dict[bytes, bytes]) -> None:
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"", b"identity"):
            raise ApiError(
                415,
                "Compressed request bodies are not taken: send it without Content-Encoding.",
                code="unsupported_encoding",
                headers={"Connection": "close"},
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise bad_request("Content-Length is not a number.")
        if int(length[:20]) > self._limit:
            raise self._too_large()

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None if the client has gone."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._limit:
                        raise self._too_large()
                    parts.append(part)
                    if not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408,
                f"The body did not arrive within {self._timeout:g} s.",
                code="request_timeout",
                headers={"Connection": "close"},
            ) from None

    def _too_large(self) -> ApiError:
        error = too_large(f"The request body is larger than {self._limit} bytes, the most that is taken.")
        error.headers["Connection"] = "close"  # what is left of the body is not read
        return error


def check_json(body: bytes) -> None:
    """Refuse what Python's parser takes and JSON (RFC 8259) does not allow, or that has no UTF-8 form.

    A body that is not JSON at all passes: the endpoint says so, naming the place.

    Raises:
        ApiError: 400.
    """
    if not any(mark in body for mark in _SUSPICIOUS):
        return
    try:
        json.dumps(json.loads(body, parse_constant=_refuse_constant), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise bad_request("The body has half of a surrogate pair, which is no character.") from None
    except (ValueError, RecursionError):
        return


def _refuse_constant(name: str) -> NoReturn:
    raise bad_request(f"The body is not valid JSON: {name} is not a JSON number.")
