"""Spans by OpenTelemetry, sent as OTLP over HTTP; W3C trace context from gRPC metadata.

Loaded only where tracing is configured. The libraries come with `pip install ocishim[otel]`.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from grpclib.exceptions import GRPCError
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ocishim import __version__, tracing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    from ocishim.config import TracingSettings

_PATIENCE: Final = 3.0
"""Seconds that a collector gets for a batch, with all attempts; so long it may hold up the server's end."""
_CANCELLED: Final = 1
"""gRPC's code."""


class OtelTracer:
    """A tracer of its own: no global provider is set."""

    def __init__(self, settings: TracingSettings, exporter: SpanExporter | None = None) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "ocishim", "service.version": __version__}),
            sampler=ParentBased(TraceIdRatioBased(settings.sample)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=settings.endpoint, timeout=_PATIENCE))
        )
        self._tracer = self._provider.get_tracer("ocishim", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def rpc(self, path: str, metadata: Mapping[str, str]) -> Iterator[None]:
        """The span of a call."""
        service, _, method = path.strip("/").rpartition("/")
        token = tracing.active.set(self)
        try:
            spanned = self._tracer.start_as_current_span(
                path.strip("/"),
                context=self._propagator.extract(metadata),
                kind=SpanKind.SERVER,
                attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
                record_exception=False,
                set_status_on_exception=False,
            )
            with spanned as span, _judged(span):
                yield
        finally:
            tracing.active.reset(token)

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, str]) -> Iterator[None]:
        """A span below the current one."""
        with self._tracer.start_as_current_span(name, attributes=dict(attributes), record_exception=False):
            yield

    def trace_id(self) -> str:
        """The current trace's."""
        context = get_current_span().get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else ""

    async def close(self) -> None:
        """Send what is waiting; a collector that does not answer is not waited for longer than its time limit."""
        await asyncio.to_thread(self._provider.shutdown)


@contextmanager
def _judged(span: Span) -> Iterator[None]:
    code = 0
    try:
        yield
    except GRPCError as error:
        code = error.status.value
        span.set_status(Status(StatusCode.ERROR, error.message or error.status.name))
        raise
    except asyncio.CancelledError:
        code = _CANCELLED
        raise
    finally:
        span.set_attribute("rpc.grpc.status_code", code)
