"""`ServerMetrics`: what is counted about requests.

One object a process, with a registry of its own. Where `PROMETHEUS_MULTIPROC_DIR` was set before
prometheus_client was imported, every process counts into files of that directory and any of them can show
the sum. Knows requests and their outputs, and no engine: its figures are `quire_server.metrics.exposition`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from quire import RequestOutput, SamplingParams
from quire_server.metrics.names import METRICS
from quire_server.metrics.observed import ObservedStream
from quire_server.metrics.tally import Tally
from quire_server.request_record import current_record

RECENT = 1024
"""Latencies that are remembered one by one."""

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
_DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TOKENS = tuple(float(2**power) for power in range(0, 19, 1))

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REASONS = frozenset(
    {"queue_full", "unauthorized", "request_too_large", "request_timeout", "unsupported_encoding", "bad_body"}
)
OTHER = "other"


class ServerMetrics:
    """Counts requests as they go by. Cheap enough to be called for every token.

    Attributes:
        registry: the counters and histograms of this process.
        recent_ttft, recent_itl: the last `RECENT` times to first token and between tokens, in seconds, of
            this process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.recent_ttft: deque[float] = deque(maxlen=RECENT)
        self.recent_itl: deque[float] = deque(maxlen=RECENT)
        self._http = self._counter("quire_http_requests_total", ("method", "route", "status"))
        self._http_series: dict[tuple[str, str, int], Counter] = {}
        self._finished = self._counter("quire_requests_finished_total", ("reason",))
        self._rejected = self._counter("quire_requests_rejected_total", ("reason",))
        self._compile_seconds = self._counter("quire_grammar_compile_seconds_total", ())
        self._compiled_until = 0.0
        self._ttft = self._histogram("quire_time_to_first_token_seconds", _LATENCY)
        itl = "quire_inter_token_latency_seconds"
        self._itl = Tally(itl, METRICS[itl][1], _LATENCY, self.registry)
        self._tpot = self._histogram("quire_time_per_output_token_seconds", _LATENCY)
        self._e2e = self._histogram("quire_e2e_request_latency_seconds", _DURATION)
        self._queue = self._histogram("quire_request_queue_time_seconds", _DURATION)
        self._prefill = self._histogram("quire_request_prefill_time_seconds", _DURATION)
        self._decode = self._histogram("quire_request_decode_time_seconds", _DURATION)
        self._prompt_tokens = self._histogram("quire_request_prompt_tokens", _TOKENS)
        self._generation_tokens = self._histogram("quire_request_generation_tokens", _TOKENS)
        for reason in ("stop", "length", "abort", "error"):
            self._finished.labels(reason)
        for reason in (*_REASONS, OTHER):
            self._rejected.labels(reason)

    def observe(
        self, stream: AsyncIterator[RequestOutput], params: SamplingParams, *, deltas: bool = False
    ) -> ObservedStream:
        """Pass a request's outputs on and count them; closing it closes the stream.

        Args:
            stream: of a request that the engine has just accepted.
            params: how it samples.
            deltas: outputs hold what is new, not the whole.
        """
        return ObservedStream(self, stream, deltas=deltas, record=current_record.get())

    def rejected(self, reason: str) -> None:
        """A request was turned away before the engine saw it."""
        self._rejected.labels(reason if reason in _REASONS else OTHER).inc()

    def compiled(self, seconds: float) -> None:
        """Grammars have taken this process so long to compile, all that it has compiled."""
        self._compile_seconds.inc(max(seconds - self._compiled_until, 0.0))
        self._compiled_until = seconds

    def http_request(self, method: str, route: str, status: int) -> None:
        """An HTTP request has been answered.

        Args:
            method: as sent; one that is not known is counted under "other".
            route: the route's template, never the path itself: series must not grow with what clients send.
            status: of the response.
        """
        key = (method if method in _METHODS else OTHER, route, status)
        series = self._http_series.get(key)
        if series is None:
            series = self._http_series[key] = self._http.labels(key[0], route, str(status))
        series.inc()

    def flush(self) -> None:
        """Make all that was counted visible."""
        self._itl.flush()

    # --- for ObservedStream

    def first_token(self, seconds: float) -> None:
        """A request has its first token."""
        self._ttft.observe(seconds)
        self.recent_ttft.append(seconds)

    def next_token(self, seconds: float, now: float) -> None:
        """A stream got something new at `now`, so long after the last."""
        self._itl.add(seconds, now)
        self.recent_itl.append(seconds)

    def finished(
        self, reason: str, *, prompt_tokens: int, generation_tokens: int, times: Sequence[float | None]
    ) -> None:
        """A request is over.

        Args:
            reason: a finish reason.
            prompt_tokens, generation_tokens: its tokens.
            times: arrival, first step, first token and end, in seconds of one clock; None for what it did
                not live to see.
        """
        self._finished.labels(reason).inc()
        self._itl.flush()
        self._prompt_tokens.observe(prompt_tokens)
        self._generation_tokens.observe(generation_tokens)
        arrival, scheduled, first, end = times
        for histogram, since, until in (
            (self._queue, arrival, scheduled),
            (self._prefill, scheduled, first),
            (self._decode, first, end),
            (self._e2e, arrival, end),
        ):
            if since is not None and until is not None:
                histogram.observe(max(until - since, 0.0))
        if first is not None and end is not None and generation_tokens > 1:
            self._tpot.observe(max(end - first, 0.0) / (generation_tokens - 1))

    def _counter(self, name: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, METRICS[name][1], labels, registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, METRICS[name][1], buckets=buckets, registry=self.registry)
