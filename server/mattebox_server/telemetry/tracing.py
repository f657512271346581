"""Traces for an OpenTelemetry collector: one span for each request and for each of its stages.

This module needs the extra `otel`. OpenTelemetry's own environment variables set whatever Mattebox has no setting for,
such as `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS` and
`OTEL_EXPORTER_OTLP_CERTIFICATE`.
"""

import threading
import time
from importlib.metadata import version

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from mattebox_server.errors import StartupError
from mattebox_server.records import Record

log = structlog.stdlib.get_logger(__name__)

_FLUSH_S = 3.0
# Statuses that OpenTelemetry's conventions for gRPC count as errors of the server; the others are the caller's errors.
_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Tracer:
    """Makes spans of requests that have ended. Another thread sends them to the collector.

    Args:
        endpoint: http://HOST:PORT or https://HOST:PORT of the collector.
        service: full name of the gRPC service.

    Raises:
        StartupError: the environment variable OTEL_SDK_DISABLED turns tracing off.
    """

    def __init__(self, endpoint: str, service: str) -> None:
        self._service = service
        self._propagator = TraceContextTextMapPropagator()
        self._exporter = OTLPSpanExporter(endpoint)
        # By default every request is sampled, unless its caller decided otherwise; OTEL_TRACES_SAMPLER changes this.
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("mattebox", version("mattebox"))
        if isinstance(self._tracer, trace.NoOpTracer):
            raise StartupError("otlp_endpoint: the environment variable OTEL_SDK_DISABLED turns tracing off")

    def observe(self, record: Record) -> None:
        """Makes the spans of a request that has ended."""
        epoch_ns = time.time_ns() - time.monotonic_ns()  # computed for each request, because clocks are set
        parent = self._propagator.extract({"traceparent": record.traceparent})
        span = self._tracer.start_span(
            f"{self._service}/{record.method}",
            parent,
            SpanKind.SERVER,
            self._attributes(record),
            start_time=epoch_ns + _ns(record.started_s),
        )
        if span.is_recording():
            if record.status in _ERRORS:
                span.set_status(Status(StatusCode.ERROR, record.reason))
            inside = trace.set_span_in_context(span, parent)
            for stage in record.times:
                child = self._tracer.start_span(stage.name, inside, start_time=epoch_ns + _ns(stage.started_s))
                child.end(epoch_ns + _ns(stage.started_s + stage.seconds))
        span.end(epoch_ns + _ns(record.started_s + record.seconds))

    def close(self) -> None:
        """Sends the spans that are left, and gives up after 3 s, for which it blocks."""
        flushing = threading.Thread(target=self._provider.shutdown, name="flush", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)
        if flushing.is_alive():
            log.warning("traces were not delivered in time", seconds=_FLUSH_S)
            self._exporter.shutdown()  # pyright: ignore[reportUnknownMemberType]

    def _attributes(self, record: Record) -> dict[str, AttributeValue]:
        found: dict[str, AttributeValue] = {
            "rpc.system.name": "grpc",
            "rpc.system": "grpc",  # the attribute's name before 2026, which much software still reads
            "rpc.method": f"{self._service}/{record.method}",
            "rpc.response.status_code": record.status,
            "mattebox.request_id": record.request_id,
            "mattebox.caller": record.caller,
            "mattebox.model": record.model,
            "mattebox.provider": record.provider,
            "mattebox.limit": record.limit,
            "mattebox.batch_size": record.batch_size,
            "mattebox.request_bytes": record.request_bytes,
            "mattebox.response_bytes": record.response_bytes,
        }
        return {name: value for name, value in found.items() if value}


def _resource() -> Resource:
    """Returns the attributes of this service; those of the environment variables replace the defaults."""
    own = {"service.name": "mattebox", "service.version": version("mattebox")}
    return Resource.create(own | dict(OTELResourceDetector().detect().attributes))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
