"""Log lines of the server: as text for people or JSON for machines, each with the request it belongs to.

Bodies and keys are never logged: no line of this package is given one.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from quire_server.config import ServeConfig
from quire_server.request_record import current_record

_CHATTY = ("asyncio", "filelock", "httpcore", "httpx", "httpx2", "urllib3")
"""Libraries whose debug and info lines tell nothing about the server."""


class _RequestFilter(logging.Filter):
    """Notes on each line the id of the request that the running task serves."""

    def filter(self, record: logging.LogRecord) -> bool:
        served = current_record.get()
        record.request_id = served.request_id if served is not None else None
        return True


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO    quire_server.access [request id] message`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback if there is one."""
        request_id = getattr(record, "request_id", None)
        shown = f" [{request_id}]" if request_id else ""
        line = f"{_time(record)} {record.levelname:<7} {record.name}{shown} {_one_line(record.getMessage())}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message; request_id, error and own fields if any."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None)
        if request_id:
            line["request_id"] = request_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(settings: ServeConfig) -> None:
    """Send everything that is logged in this process to stderr, as the settings say. May be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_RequestFilter())
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    level = settings.log_level.upper()
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error"):
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
        library.setLevel(logging.WARNING if settings.log_level == "info" else level)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _one_line(message: str) -> str:
    """What comes from outside must not be able to forge further lines."""
    return message.replace("\r", "\\r").replace("\n", "\\n")
