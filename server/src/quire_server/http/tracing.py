"""OpenTelemetry: one span per HTTP request. OpenTelemetry is imported only if an endpoint is configured.

The provider is the server's own, not the process' global one, so two apps in one process may differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import Scope

from quire.errors import ConfigError
from quire_server.config import ServeConfig
from quire_server.request_record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span


class Tracing:
    """Starts and ends the spans of requests.

    Attribute names follow OpenTelemetry's semantic conventions for HTTP and for generative AI.
    """

    def __init__(self, provider: TracerProvider, model: str) -> None:
        """Trace to a provider.

        Args:
            provider: where spans go.
            model: main served name.
        """
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("quire_server")
        self._propagator = TraceContextTextMapPropagator()
        self._model = model

    def start(self, scope: Scope) -> Span:
        """A span for a request; a child of the caller's, if the request says whose."""
        from opentelemetry.trace import SpanKind

        headers = {
            str(name, "latin-1"): str(value, "latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        context = self._propagator.extract(headers)
        return self._tracer.start_span(scope["method"], context=context, kind=SpanKind.SERVER)

    def end(self, span: Span, scope: Scope, record: RequestRecord, route: str, status: int) -> None:
        """End a request's span with what became of it."""
        from opentelemetry.trace import StatusCode

        span.update_name(f"{scope['method']} {route}")
        span.set_attributes(
            {
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "quire.request_id": record.request_id,
                "gen_ai.request.model": self._model,
                "gen_ai.usage.input_tokens": record.prompt_tokens,
                "gen_ai.usage.output_tokens": record.completion_tokens,
            }
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def make_tracing(settings: ServeConfig, model: str) -> Tracing | None:
    """Tracing as configured; None without an endpoint.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if settings.tracing_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            "serve.tracing_endpoint is set, but OpenTelemetry is not installed. "
            "Install it with: pip install 'quire-server[tracing]', or unset tracing_endpoint."
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "quire"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.tracing_endpoint)))
    return Tracing(provider, model)
