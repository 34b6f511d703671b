"""HTTP/1.1 as uvicorn speaks it, with bounds on how large and how slow the headers may be.

What happens before there is a request for the application to see is decided here: slow headers get 408, large
ones 431, malformed ones 400, and the connection is closed. Bodies are `quire_server.http.body`'s.
"""

from __future__ import annotations

import asyncio
import http
import json
import math
import ssl
from typing import ClassVar

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quire_server.config import ServeConfig
from quire_server.errors import ApiError
from quire_server.front_end import openai_error

_HEADER_OVERHEAD = 4  # bytes: the colon, the blank and the line's end


class _RefusedError(Exception):
    """Ends the parsing of a request that is not going to be served."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Its two timers are never set at once: uvicorn's for idle connections between requests,
    and this one's from a connection's or request's first moment until its headers are complete.
    """

    header_timeout: ClassVar[float]
    max_header_bytes: ClassVar[int]

    _timer: asyncio.TimerHandle | None = None
    _in_headers = False
    _fed = 0  # bytes fed since this request began, not counting the piece it began in
    _refusal: ApiError | None = None
    _plain_head: bytes | None = None  # of a request that offers another protocol, the head without the offer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; it has so long for its first request's headers."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the headers have grown too large."""
        was_idle = self.timeout_keep_alive_task is not None
        was_in_headers = self._in_headers
        if was_in_headers:
            self._fed += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self.transport.is_closing():
            return
        if was_in_headers and self._in_headers and self._fed > self.max_header_bytes:
            self._refusal = self._too_large()
            self.send_400_response("")
        elif was_idle and self.timeout_keep_alive_task is None and self._nothing_runs():
            # A blank line before a request ends uvicorn's idle timer and begins nothing.
            self._start_timer()

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._in_headers = True
        self._fed = 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        """The application may start, unless the headers are too large."""
        self._in_headers = False
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in self.headers)
        if size > self.max_header_bytes:
            self._refusal = self._too_large()
            raise _RefusedError
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._plain_head = self._without_upgrade()
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole; one with an offer to upgrade has yet to begin."""
        if self._plain_head is None:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be served and close; uvicorn calls it for whatever does not parse."""
        error = self._refusal or ApiError(400, "This is not a valid HTTP request.", code="invalid_http")
        if not self._nothing_runs():
            self.transport.close()  # a response is under way: nothing may be written into it
            return
        body = json.dumps(openai_error(error)).encode()
        phrase = http.HTTPStatus(error.status).phrase
        head = (
            f"HTTP/1.1 {error.status} {phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _parse(self, data: bytes) -> None:
        """Feed the parser.

        Some clients (Java's, by default) offer HTTP/2 with every request, its body included. No is an
        answer; but the parser takes what follows such a head for the other protocol's, the body too. So the
        head is parsed once more, without the offer.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                head, self._plain_head = self._plain_head, None
                if head is None:
                    self.transport.close()  # after CONNECT there is no HTTP to be had
                    return
                self.parser = httptools.HttpRequestParser(self)
                data = head + data[offer.args[0] :]
                continue
            except httptools.HttpParserError:
                self.send_400_response("")
            return

    def _without_upgrade(self) -> bytes:
        dropped = (b"connection", b"upgrade", b"http2-settings")
        kept = [b"%s: %s\r\n" % header for header in self.headers if header[0] not in dropped]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            kept.append(b"connection: close\r\n")
        version = self.parser.get_http_version().encode()
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
        return line + b"".join(kept) + b"\r\n"

    def _nothing_runs(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _too_large(self) -> ApiError:
        return ApiError(
            431,
            f"The request line and headers are larger than {self.max_header_bytes} bytes.",
            code="headers_too_large",
        )

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_timeout, self._timed_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._in_headers:
            self.transport.close()  # not one byte of a request: nobody waits for an answer
            return
        self._refusal = ApiError(
            408, f"The headers did not arrive within {self.header_timeout:g} s.", code="request_timeout"
        )
        self.send_400_response("")


def uvicorn_config(settings: ServeConfig, app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves the app: for `uvicorn.Server(uvicorn_config(settings, app))`.

    Call `configure_logging` before: uvicorn's own logging is left out. `root_path` is the app's own matter,
    as uvicorn would put it in front of paths that already have it.
    """
    bounds = {"header_timeout": settings.read_timeout, "max_header_bytes": settings.max_header_bytes}
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=type("ServerProtocol", (BoundedProtocol,), bounds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=math.ceil(settings.keep_alive),
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        ssl_ca_certs=None if settings.ssl_ca_certs is None else str(settings.ssl_ca_certs),
        ssl_cert_reqs=ssl.CERT_NONE if settings.ssl_ca_certs is None else ssl.CERT_REQUIRED,
    )
