"""Lines of batch files: requests as they are read, results as they are written.

The format is OpenAI's (Batch API): in, `custom_id, method, url, body`; out, `id, custom_id, response, error`.
A line that is no request, and one whose `custom_id` an earlier line has, gets a result as well, whose error
names the line's number: nothing that was put in is missing from what comes out.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")

INVALID, DUPLICATE = "invalid_line", "duplicate_custom_id"


@dataclass(frozen=True, slots=True)
class Job:
    """A request of the input.

    Attributes:
        line: its number, from 1.
        custom_id: the user's name for it.
        url: path, one of `URLS`.
        body: JSON, as it was written.
    """

    line: int
    custom_id: str
    url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of the input that is no request.

    Attributes:
        line: its number, from 1.
        custom_id: if it has one.
        code: `INVALID` or `DUPLICATE`.
        reason: for people.
    """

    line: int
    custom_id: str | None
    code: str
    reason: str


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    stream: bool | None = None


class _Named(msgspec.Struct):
    custom_id: str | None = None


class _Error(msgspec.Struct):
    line: int | None = None


class _Response(msgspec.Struct):
    status_code: int = 0


class _Result(msgspec.Struct):
    custom_id: str | None
    response: _Response | None
    error: _Error | None


_lines = msgspec.json.Decoder(_Line)
_bodies = msgspec.json.Decoder(_Body)
_named = msgspec.json.Decoder(_Named)
_results = msgspec.json.Decoder(_Result)


def read_input(lines: Iterable[bytes]) -> Iterator[Job | BadLine]:
    """What each line of an input holds, in order; empty lines hold nothing."""
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        item = _read(number, line)
        if isinstance(item, Job):
            earlier = first.setdefault(item.custom_id, number)
            if earlier != number:
                reason = f"line {number}: custom_id {item.custom_id!r} is that of line {earlier}, too"
                item = BadLine(number, item.custom_id, DUPLICATE, reason)
        yield item


def _read(number: int, line: bytes) -> Job | BadLine:
    reason = ""
    try:
        found = _lines.decode(line)
        body = bytes(found.body).strip()
        if not found.custom_id:
            reason = "custom_id is empty"
        elif found.method.upper() != "POST":
            reason = f"method is {found.method[:20]!r}; it must be POST"
        elif found.url not in URLS:
            reason = f"url is {found.url[:200]!r}; choose one of {', '.join(URLS)}"
        elif _bodies.decode(body).stream:
            reason = "body.stream is true: streams have no place in a batch"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
    if not reason:
        return Job(number, found.custom_id, found.url, body)
    try:
        name = _named.decode(line).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        name = None
    return BadLine(number, name, INVALID, f"line {number}: {reason}")


def new_id() -> str:
    """A name for a result, also sent as the request's `X-Request-Id`."""
    return f"batch_req_{uuid.uuid4().hex}"


def success_or_refusal(job: Job, name: str, status: int, request_id: str, body: bytes) -> bytes:
    """The line of a request that the server has answered, with whatever status."""
    content: Any
    try:
        msgspec.json.decode(body)
        content = msgspec.Raw(
            body.replace(b"\n", b" ").replace(b"\r", b" ")
        )  # newlines only stand between tokens
    except (msgspec.DecodeError, UnicodeDecodeError):
        content = body.decode(errors="replace")
    response = {"status_code": status, "request_id": request_id, "body": content}
    return _encode(name, job.custom_id, response, None)


def failure(job: Job, name: str, code: str, message: str) -> bytes:
    """The line of a request that has no answer."""
    return _encode(name, job.custom_id, None, {"code": code, "message": message})


def complaint(bad: BadLine) -> bytes:
    """The line of a line that is no request."""
    error = {"code": bad.code, "message": bad.reason, "line": bad.line}
    return _encode(new_id(), bad.custom_id, None, error)


def _encode(name: str, custom_id: str | None, response: Any, error: Any) -> bytes:
    result = {"id": name, "custom_id": custom_id, "response": response, "error": error}
    return msgspec.json.encode(result) + b"\n"


@dataclass(frozen=True, slots=True)
class Done:
    """What a line of the output settles: a request by name, or a bad line by number.

    Attributes:
        key: custom_id or line number.
        failed: it has an error, or a status other than 2xx.
    """

    key: str | int
    failed: bool


def read_result(line: bytes) -> Done | None:
    """What an output line says, None if it is none."""
    try:
        result = _results.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if result.error is not None and result.error.line is not None:
        return Done(result.error.line, failed=True)
    if result.custom_id is None or (result.error is None) == (result.response is None):
        return None
    status = result.response.status_code if result.response is not None else 0
    return Done(result.custom_id, failed=not 200 <= status < 300)
