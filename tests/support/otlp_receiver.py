"""A collector of traces: takes OTLP over gRPC on loopback and keeps what came."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from services.common.tracing.spans import switch_off


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as a collector sees it."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first one of a trace."""
    attributes: Mapping[str, Any]
    failed: bool
    start: float
    end: float
    """In seconds since 1970."""


class OtlpReceiver(TraceServiceServicer):
    """Serves from the beginning of its block to the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[ReceivedSpan] = []
        self.messages: list[bytes] = []
        """Each export, as it came."""
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()

    @property
    def environment(self) -> dict[str, str]:
        """What makes processes send their spans here, soon."""
        return {
            "COXSWAIN_TRACES": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def spans(self, chosen: Callable[[ReceivedSpan], bool] = lambda _: True) -> list[ReceivedSpan]:
        """Return what came so far, in the order in which it began."""
        with self._lock:
            return sorted(filter(chosen, self._spans), key=lambda span: span.start)

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """Return the spans of one trace that came so far, in the order in which they began."""
        return self.spans(lambda span: span.trace_id == trace_id)

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        """Take spans."""
        spans = [
            _received(span, str(_values(batch.resource.attributes)["service.name"]))
            for batch in request.resource_spans
            for scope in batch.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += spans
            self.messages.append(request.SerializeToString())
        return ExportTraceServiceResponse()


@contextlib.contextmanager
def collecting() -> Iterator[OtlpReceiver]:
    """Serve a collector that this process sends to once traces are switched on in it; they are off afterwards."""
    before = dict(os.environ)
    with OtlpReceiver() as receiver:
        os.environ |= receiver.environment
        try:
            yield receiver
        finally:
            switch_off()
            for name in receiver.environment:
                os.environ.pop(name)
            os.environ |= before


def _received(span: SpanMessage, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        service=service,
        name=span.name,
        kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_values(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        start=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
    )


def _values(attributes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    attribute: KeyValue
    for attribute in attributes:
        kind = attribute.value.WhichOneof("value")
        found[attribute.key] = None if kind is None else getattr(attribute.value, kind)
    return found
