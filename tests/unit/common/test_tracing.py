"""Traces: free while they are off, and without anything private while they are on."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator

import pytest

from services.common.errors import NotFound
from services.common.grpc.call import log_fields
from services.common.startup import StartError
from services.common.tracing import spans as tracing
from services.common.tracing.http_spans import note_status, request_span, traced_headers
from services.common.tracing.otlp import OtlpTracer
from services.common.tracing.spans import NO_SPAN, SpanKind, begin, current_span, span, switch_off, switch_on
from tests.support.otlp_receiver import OtlpReceiver, ReceivedSpan, collecting

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    """A collector; whoever switches traces on within the test sends to it."""
    with collecting() as receiver:
        yield receiver


def recorded(collector: OtlpReceiver) -> dict[str, ReceivedSpan]:
    """Switch traces off, and return what was recorded by its name."""
    switch_off()
    return {span.name: span for span in collector.spans()}


def test_no_process_loads_opentelemetry_while_traces_are_off() -> None:
    modules = (
        "services.suite.__main__, services.orchestrator.worker.__main__, services.orchestrator.tool_gateway.service"
    )
    program = f"import sys, {modules}; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


def test_nothing_is_made_while_traces_are_off() -> None:
    with span("work", attributes={"a": 1}) as made, tracing.within(made) as within:
        assert made is within is current_span() is begin("call", SpanKind.SERVER, remote_parent=PARENT) is NO_SPAN
        made.note("b", 2)
        made.fail("WRONG")
    made.end()
    assert made.traceparent == ""
    assert "trace_id" not in log_fields()
    headers = {"a": "b"}
    assert traced_headers("https://models.example.com/", headers) is headers


def test_a_trace_of_another_process_goes_on_here(collector: OtlpReceiver) -> None:
    switch_on(OtlpTracer("test"))
    with span("outer", SpanKind.CONSUMER, remote_parent=PARENT) as outer:
        assert log_fields() == {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
        with span("inner") as inner:
            assert inner.traceparent.split("-")[1] == PARENT.split("-")[1]
        apart = tracing.apart("apart")
        assert current_span() is outer
        apart.end()
        apart.end()
    with span("alone"):
        pass

    found = recorded(collector)
    assert (found["outer"].trace_id, found["outer"].parent_id) == tuple(PARENT.split("-")[1:3])
    assert found["inner"].parent_id == found["apart"].parent_id == found["outer"].span_id
    assert found["alone"].parent_id == ""
    assert found["alone"].trace_id != found["outer"].trace_id
    assert {span.service for span in found.values()} == {"test"}


async def test_a_generator_that_is_closed_elsewhere_ends_its_span(collector: OtlpReceiver) -> None:
    switch_on(OtlpTracer("test"))

    async def numbers() -> AsyncGenerator[int, None]:
        with span("numbers"):
            yield 1

    made = numbers()
    assert await anext(made) == 1
    await asyncio.create_task(made.aclose())
    assert recorded(collector)["numbers"].attributes == {"error.type": "CANCELLED"}


def test_a_failure_is_told_by_its_kind_and_never_by_its_words(collector: OtlpReceiver) -> None:
    switch_on(OtlpTracer("test"))
    for name, error in {"ours": NotFound("private"), "other": ValueError("private")}.items():
        with pytest.raises(type(error)), span(name):
            raise error
    found = recorded(collector)
    assert {name: span.attributes["error.type"] for name, span in found.items()} == {
        "ours": NotFound.default_reason,
        "other": "ValueError",
    }
    assert all(span.failed for span in found.values())
    assert b"private" not in b"".join(collector.messages)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("models.example.com", True),
        ("MODELS.example.com", True),
        ("a.b.example.org", True),
        ("example.org", False),
        ("badexample.org", False),
        ("other.example.com", False),
        ("models.example.com.evil.test", False),
    ],
)
def test_only_hosts_that_the_operator_names_continue_traces(collector: OtlpReceiver, host: str, named: bool) -> None:
    switch_on(OtlpTracer("test", ["Models.example.com", "*.example.org"]))
    url = f"https://{host}/hooks/private?key=private"
    with request_span("GET", url) as request:
        assert request is NO_SPAN, "background work is not recorded"
    with span("call"):
        tracing.leave_trace()
        with request_span("GET", url) as request:
            assert request is NO_SPAN, "nor what goes on after its call"
    with span("work"), request_span("POST", url) as request:
        headers = traced_headers(url, {"accept": "*/*"})
        assert headers == {"accept": "*/*"} | ({"traceparent": request.traceparent} if named else {})
        assert traced_headers(url, {"traceparent": "mine"}) == {"traceparent": "mine"}
        note_status(request, 429)
    made = recorded(collector)["POST"]
    assert (made.kind, made.failed) == ("CLIENT", True)
    assert made.attributes["server.address"] == host.lower()
    assert made.attributes["http.response.status_code"] == 429
    assert b"private" not in b"".join(collector.messages)


def test_what_the_sampler_leaves_out_is_left_out_by_others_too(
    collector: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    switch_on(OtlpTracer("test"))
    with span("work", remote_parent=PARENT) as work:
        assert work.traceparent.endswith("-00")
    assert recorded(collector) == {}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1", "OTEL_"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/", "OTEL_EXPORTER_OTLP_CERTIFICATE names a file that cannot be read: /"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/none.pem", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE .*: No such"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/none.key", "OTEL_EXPORTER_OTLP_CLIENT_KEY .*: No such"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b, s3cret", "OTEL_EXPORTER_OTLP_HEADERS has to be NAME=VALUE"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "s3cret", "OTEL_EXPORTER_OTLP_TRACES_HEADERS has to be NAME=VALUE"),
    ],
)
def test_a_variable_that_cannot_be_used_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=told) as refused:
        OtlpTracer("test")
    assert "s3cret" not in f"{refused.value}{caplog.text}"


def test_a_collector_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("services.common.tracing.otlp._CLOSE_SECONDS", 0.2)
    switch_on(OtlpTracer("test"))
    with span("work"):
        pass
    before = time.monotonic()
    switch_off()
    # What it would wait for by itself is half a minute.
    assert time.monotonic() - before < 20
