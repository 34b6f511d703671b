"""One streamed request to an OpenAI-compatible API: what is sent, and what its events say.

Knows the API's fields, and vLLM's extra ones; knows nothing of schedules or figures.

How tokens are counted: by the usage that the server reports, else by the token ids in the chunks, else one
per chunk; `Sample.counted_by` says which. A chunk counts as one with tokens if it has ids, or a text, or
neither text nor role nor an end: an empty text may be the first part of a character.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from quire_server.bench.connection import Pool, Reply
from quire_server.bench.settings import LoadSettings
from quire_server.bench.workload import Request

CountedBy = Literal["usage", "token_ids", "chunks"]
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
_DETAIL = 300


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_events = msgspec.json.Decoder(_Event)


@dataclass(slots=True)
class Sample:
    """What became of one request. Times are seconds since the run began.

    Attributes:
        index: the request's number.
        input_len, output_len: what was asked for.
        due: when the schedule wanted it sent. Its latencies count from here.
        sent: when it was sent; later than `due` if the client was busy or at its limit.
        status: HTTP status, 0 without a reply.
        failure: reason in one word (`http_429`, `connect`, `timeout`, ...), None for success.
        detail: the reason in the server's words, shortened.
        prompt_tokens, output_tokens: as counted by `counted_by`; 0 where not known.
        times: arrivals of the chunks that had tokens.
    """

    index: int
    input_len: int
    output_len: int
    due: float
    sent: float = 0.0
    status: int = 0
    failure: str | None = None
    detail: str | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    counted_by: CountedBy | None = None
    times: list[float] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.due

    @property
    def e2e(self) -> float:
        """Seconds to the last token."""
        return self.times[-1] - self.due

    @property
    def tpot(self) -> float | None:
        """Mean seconds per output token after the first; None with a single one."""
        if self.output_tokens < 2 or len(self.times) < 2:
            return None
        return (self.times[-1] - self.times[0]) / (self.output_tokens - 1)

    @property
    def itl(self) -> list[float]:
        """Seconds between chunks that follow each other."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


def encode(settings: LoadSettings, model: str, request: Request) -> bytes:
    """The body of a request."""
    body: dict[str, Any] = {
        "model": model,
        "temperature": settings.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": request.output_len,
    }
    if settings.endpoint == "chat":
        body["messages"] = [{"role": "user", "content": request.prompt}]
    else:
        body["prompt"] = request.prompt
    if settings.ignore_eos:
        body["ignore_eos"] = True
    if settings.return_token_ids:
        body["return_token_ids"] = True
    return msgspec.json.encode(body)


async def send(pool: Pool, path: str, body: bytes, sample: Sample, begin: float) -> None:
    """Send a request and fill its sample.

    Args:
        begin: `time.perf_counter()` at the run's start.
    """
    request = pool.encode("POST", path, body)
    sample.sent = time.perf_counter() - begin
    try:
        reply = await pool.exchange(request)
    except OSError as error:
        sample.failure, sample.detail = "connect", str(error)[:_DETAIL]
        return
    read(reply, sample, begin)


def read(reply: Reply, sample: Sample, begin: float) -> None:
    """Fill a sample from a reply, whole or broken."""
    sample.status = reply.status
    if reply.status != 200 and reply.status:
        sample.failure, sample.detail = f"http_{reply.status}", _text(reply.body)
    elif reply.broken is not None:
        sample.failure, sample.detail = "broken_stream" if reply.status else "disconnected", reply.broken
    elif not reply.streamed:
        sample.failure, sample.detail = "not_a_stream", _text(reply.body)
    ids = 0
    usage: _Usage | None = None
    ended = False
    for arrived, data in reply.events:
        if data == b"[DONE]":
            ended = True
            continue
        try:
            event = _events.decode(data)
        except msgspec.DecodeError as error:
            sample.failure, sample.detail = "malformed_event", str(error)[:_DETAIL]
            return
        if event.error is not None:
            sample.failure, sample.detail = "stream_error", _text(data)
            return
        usage = event.usage or usage
        if event.choices and _has_tokens(event.choices[0]):
            sample.times.append(arrived - begin)
            ids += len(event.choices[0].token_ids or ())
    _count(sample, usage, ids)
    if sample.failure is None and not ended:
        sample.failure, sample.detail = "broken_stream", "the stream ended without [DONE]"
    if sample.failure is None and not sample.times:
        sample.failure, sample.detail = "empty", "the stream had no tokens"


def _has_tokens(choice: _Choice) -> bool:
    if choice.token_ids is not None:
        return bool(choice.token_ids)
    delta = choice.delta
    if delta is None:
        return bool(choice.text) or (choice.text is not None and choice.finish_reason is None)
    if delta.content or delta.reasoning_content or delta.reasoning:
        return True
    return delta.content is not None and delta.role is None and choice.finish_reason is None


def _count(sample: Sample, usage: _Usage | None, ids: int) -> None:
    if usage is not None:
        sample.prompt_tokens = usage.prompt_tokens
    if usage is not None and usage.completion_tokens is not None:
        sample.output_tokens, sample.counted_by = usage.completion_tokens, "usage"
    elif ids:
        sample.output_tokens, sample.counted_by = ids, "token_ids"
    else:
        sample.output_tokens, sample.counted_by = len(sample.times), "chunks"


def _text(body: bytes) -> str:
    return body.decode(errors="replace")[:_DETAIL]
