"""Spans by the SDK of OpenTelemetry, sent by OTLP over gRPC. Imported only where traces are on.

The standard variables say where to and how much: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and so on. Nothing is
registered globally, so that libraries which trace themselves find nobody to tell.
"""

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind as OtelSpanKind
from opentelemetry.trace import StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.re import parse_env_headers

from services.common.startup import StartError
from services.common.tracing.spans import TRACEPARENT, Span, SpanKind, Value

_MOST_CHARACTERS = 128
"""Of a `traceparent`: version 00 has 55, later ones may have more."""
_CLOSE_SECONDS = 3.0
_PROTOCOL = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FILES = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}{file}"
    for signal in ("TRACES_", "")
    for file in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
)
_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_KINDS = {kind: OtelSpanKind[kind.value] for kind in SpanKind}
_PROPAGATOR = TraceContextTextMapPropagator()


class _RecordedSpan:
    """A span of OpenTelemetry."""

    __slots__ = ("_ended", "_span")

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        self._ended = False

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"

    @property
    def trace_id(self) -> str:
        return format_trace_id(self._span.get_span_context().trace_id)

    @property
    def context(self) -> Context:
        """What a span below this one is started in."""
        return set_span_in_context(self._span, Context())

    def note(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def fail(self, error_type: str) -> None:
        self._span.set_status(StatusCode.ERROR)
        self._span.set_attribute("error.type", error_type)

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._span.end()


class OtlpTracer:
    """Sends spans to a collector, in batches and from a thread of its own."""

    def __init__(self, service: str, upstreams: Sequence[str] = ()) -> None:
        """`service` is the name of this process. `upstreams` are hosts outside of the installation that are to continue
        traces; `*.example.com` names all below a domain.

        Raises:
            StartError: a variable of OpenTelemetry has a value that cannot be used.
        """
        protocol = next(filter(None, map(os.environ.get, _PROTOCOL)), "grpc")
        if protocol != "grpc":
            raise StartError(
                f"traces are sent by OTLP over gRPC, and {_PROTOCOL[1]} asks for {protocol[:40]}; "
                "unset it, and name the collector's port for gRPC (4317) in OTEL_EXPORTER_OTLP_ENDPOINT"
            )
        _check_files()
        _check_headers()
        named = os.environ.get("OTEL_SERVICE_NAME") or service
        try:
            processor = BatchSpanProcessor(OTLPSpanExporter())
            self._provider = TracerProvider(
                resource=Resource.create({"service.name": named, "service.namespace": "coxswain"}),
                shutdown_on_exit=False,
            )
        except Exception as error:
            # The library has errors of its own for some values, which share no class.
            raise StartError(f"a variable of OpenTelemetry (OTEL_...) cannot be used: {error}") from error
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("coxswain")
        self._hosts = frozenset(host.lower() for host in upstreams if not host.startswith("*."))
        self._domains = tuple(host[1:].lower() for host in upstreams if host.startswith("*."))

    def start(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Value], parent: Span | None, remote_parent: str
    ) -> Span:
        """See `Tracer`."""
        if isinstance(parent, _RecordedSpan):
            context = parent.context
        elif 0 < len(remote_parent) <= _MOST_CHARACTERS:
            context = _PROPAGATOR.extract({TRACEPARENT: remote_parent}, Context())
        else:
            context = Context()
        return _RecordedSpan(self._tracer.start_span(name, context, _KINDS[kind], attributes))

    def names_upstream(self, host: str) -> bool:
        """See `Tracer`."""
        host = host.lower()
        return host in self._hosts or host.endswith(self._domains)

    def close(self) -> None:
        """See `Tracer`."""
        # It would wait for half a minute where no collector answers.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


def _check_files() -> None:
    """Refuse files that cannot be read: the library goes on without one that is missing."""
    for variable in _FILES:
        if path := os.environ.get(variable):
            try:
                with Path(path).open("rb"):
                    pass
            except OSError as error:
                raise StartError(f"{variable} names a file that cannot be read: {path}: {error.strerror}") from error


def _check_headers() -> None:
    """Refuse headers that are not of their form: the library leaves them out and logs them, keys of collectors too."""
    logging.getLogger("opentelemetry.util.re").disabled = True
    for variable in _HEADERS:
        for header in os.environ.get(variable, "").split(","):
            if header.strip() and not parse_env_headers(header, liberal=True):
                raise StartError(
                    f"{variable} has to be NAME=VALUE pairs with commas between them, each value URL-encoded"
                )
