"""What is remembered of one HTTP request while it runs: for the log, the metrics and the trace.

Shared by the frame, which opens it, and the service's books, which fill in tokens. Imports neither.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request.

    Attributes:
        request_id: shown to the client; names nothing inside.
        started: `time.perf_counter()` when it arrived.
        status: of the response; 0 until it has begun.
        prompt_tokens, completion_tokens: of the engine's requests behind it, so far.
    """

    request_id: str
    started: float = field(default_factory=perf_counter)
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)
"""The request that the running task serves; None outside of requests."""
