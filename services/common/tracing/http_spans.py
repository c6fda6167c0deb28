"""Spans of requests over HTTP to what is outside of the installation."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from services.common.tracing.spans import (
    NO_SPAN,
    TRACEPARENT,
    Span,
    SpanKind,
    Value,
    current_span,
    is_on,
    span,
    upstream_traceparent,
    within,
)

_FIRST_ERROR = 400


def request_span(method: str, url: str) -> AbstractContextManager[Span]:
    """Record the block as a request, if it belongs to a trace.

    Of its address only the host is told: some have secrets in their paths.
    """
    if current_span() is NO_SPAN:
        return within(NO_SPAN)
    address = urlsplit(url)
    attributes: dict[str, Value] = {"http.request.method": method, "server.address": address.hostname or ""}
    if address.port is not None:
        attributes["server.port"] = address.port
    return span(method, SpanKind.CLIENT, attributes)


def traced_headers(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers of a request, with the current span where the operator wants its host to continue traces.

    A `traceparent` that is among them stays.
    """
    traceparent = upstream_traceparent(urlsplit(url).hostname or "") if is_on() else ""
    return {TRACEPARENT: traceparent, **headers} if traceparent else headers


def note_status(request: Span, status: int) -> None:
    """Say how a request was answered."""
    request.note("http.response.status_code", status)
    if status >= _FIRST_ERROR:
        request.fail(str(status))
