"""The outermost layer of a request: its id, its line in the log, its place in metrics and traces, and the
answer when nothing else caught what went wrong.

Adds one plain function call to each event of a stream. Knows no dialect and never reads a body.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire_server.http.errors import ErrorForms, internal, route_path
from quire_server.http.streaming import ClientGoneError
from quire_server.http.tracing import Tracing
from quire_server.metrics import ServerMetrics
from quire_server.request_record import RequestRecord, current_record

logger = logging.getLogger(__name__)
access = logging.getLogger("quire_server.access")

CLIENT_GONE = 499
"""Status in log and metrics of a request whose client went away before there was an answer."""

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_STRANGE = re.compile(r"[^!-~]")
UNMATCHED = "unmatched"


class ObserverMiddleware:
    """Opens a `RequestRecord`, and closes it when the response is through."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        forms: ErrorForms,
        metrics: ServerMetrics,
        access_log: bool,
        tracing: Tracing | None = None,
        root_path: str = "",
    ) -> None:
        """Watch an application.

        Args:
            app: what is watched.
            forms: of errors.
            metrics: where requests are counted.
            access_log: write a line per request.
            tracing: where spans go.
            root_path: path under which a proxy shows the server, whether or not it strips it.
        """
        self.app = app
        self._forms = forms
        self._metrics = metrics
        self._access_log = access_log
        self._tracing = tracing
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, whatever becomes of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self._root_path:
            scope["root_path"] = self._root_path
        state = scope.setdefault("state", {})
        record = RequestRecord(_request_id(scope))
        state["request_id"] = record.request_id
        token = current_record.set(record)
        span = self._tracing.start(scope) if self._tracing is not None else None

        def observed(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = list(message.get("headers", ()))
                headers.append((b"x-request-id", record.request_id.encode()))
                ignored = state.get("ignored_fields")
                if ignored:
                    headers.append((b"x-quire-ignored-fields", ", ".join(ignored).encode()))
                message["headers"] = headers
            return send(message)

        try:
            await self.app(scope, receive, observed)
        except (ClientGoneError, ClientDisconnect):
            record.status = record.status or CLIENT_GONE
        except Exception:
            logger.exception("%s %s failed", scope["method"], printable_path(scope))
            if record.status == 0:
                response = self._forms.response(scope, internal(record.request_id))
                await response(scope, receive, observed)
            # Otherwise the response stays incomplete, and the server closes the connection.
        finally:
            route = getattr(scope.get("route"), "path", None) or UNMATCHED
            status = record.status or CLIENT_GONE
            self._metrics.http_request(scope["method"], route, status)
            if self._access_log:
                _log_access(scope, record, status)
            if self._tracing is not None and span is not None:
                self._tracing.end(span, scope, record, route, status)
            current_record.reset(token)


def printable_path(scope: Scope) -> str:
    """The path as it may stand in a log: no blanks, no control characters, no query, bounded."""
    return _STRANGE.sub("?", route_path(scope)[:200])


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex


def _log_access(scope: Scope, record: RequestRecord, status: int) -> None:
    seconds = perf_counter() - record.started
    client = (scope.get("client") or ("-",))[0]
    fields = {
        "client": client,
        "method": scope["method"],
        "path": printable_path(scope),
        "status": status,
        "seconds": round(seconds, 6),
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
    }
    access.info(
        "%s %s %s %d %.3fs",
        client,
        fields["method"],
        fields["path"],
        status,
        seconds,
        extra={"fields": fields},
    )
