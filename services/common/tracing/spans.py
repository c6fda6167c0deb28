"""Spans: work that takes time on behalf of a caller, recorded where the operator has switched traces on.

While they are off, nothing of OpenTelemetry is loaded and no span is made. What a span says is read by whoever may read
the tracing system: names, numbers and ids of ours, but no text of a caller, a model or a tool, and no subject.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from enum import StrEnum
from types import TracebackType
from typing import Protocol, TypeAlias

from services.common.errors import CoxswainError

TRACEPARENT = "traceparent"
"""Header and metadata key of W3C Trace Context."""

Value: TypeAlias = str | int | float | bool


class SpanKind(StrEnum):
    """How a span is related to its parent; the names are OpenTelemetry's."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Span(Protocol):
    """Work from its beginning to its end."""

    @property
    def traceparent(self) -> str:
        """What makes others continue the trace below this span, as W3C writes it; empty while traces are off."""
        ...

    @property
    def trace_id(self) -> str:
        """Id of the trace in 32 hexadecimal digits; empty while traces are off."""
        ...

    def note(self, name: str, value: Value) -> None:
        """Set an attribute."""
        ...

    def fail(self, error_type: str) -> None:
        """Mark the work as failed, by one of a few words."""
        ...

    def end(self) -> None:
        """Say that the work is done; a second time changes nothing."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def start(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Value], parent: Span | None, remote_parent: str
    ) -> Span:
        """Return a span that begins now, below `parent` or below what a `traceparent` of another process names.

        One that is not valid counts as none: the span begins a trace.
        """
        ...

    def names_upstream(self, host: str) -> bool:
        """Return whether the operator wants a host outside of the installation to continue traces."""
        ...

    def close(self) -> None:
        """Send what has ended. Blocks for some seconds at most."""
        ...


class _NoSpan:
    """What is made while traces are off: nothing."""

    traceparent = ""
    trace_id = ""

    def note(self, name: str, value: Value) -> None:
        pass

    def fail(self, error_type: str) -> None:
        pass

    def end(self) -> None:
        pass

    def __enter__(self) -> Span:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass


class _Block:
    """A span that is the current one inside a block, and ends with it unless it goes on elsewhere."""

    __slots__ = ("_ends", "_span", "_token")

    def __init__(self, span: Span, *, ends: bool) -> None:
        self._span = span
        self._ends = ends
        self._token: Token[Span] | None = None

    def __enter__(self) -> Span:
        self._token = _current.set(self._span)
        return self._span

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            # A generator may be closed in another context than it has run in.
            with contextlib.suppress(ValueError):
                _current.reset(self._token)
        if self._ends:
            if error is not None:
                self._span.fail(error_type(error))
            self._span.end()


_NO_SPAN = _NoSpan()
NO_SPAN: Span = _NO_SPAN

_tracer: Tracer | None = None
_current: ContextVar[Span] = ContextVar("coxswain_span")


def switch_on(tracer: Tracer) -> None:
    """Record spans from now on."""
    global _tracer  # noqa: PLW0603 - one switch for the process
    _tracer = tracer


def switch_off() -> None:
    """Send what is recorded, and record nothing more. Blocks for some seconds at most."""
    global _tracer
    tracer, _tracer = _tracer, None
    if tracer is not None:
        tracer.close()


def is_on() -> bool:
    """Return whether spans are recorded."""
    return _tracer is not None


def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Value] | None = None,
    *,
    remote_parent: str | None = None,
) -> AbstractContextManager[Span]:
    """Record the block as a span below the current one, and mark it failed by what the block raises.

    With `remote_parent`, the `traceparent` of another process, it is below that, and begins a trace where that is empty
    or not valid.
    """
    if _tracer is None:
        return _NO_SPAN
    return _Block(_start(_tracer, name, kind, attributes, remote_parent), ends=True)


def begin(
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, Value] | None = None,
    *,
    remote_parent: str | None = None,
) -> Span:
    """Begin a span that is the current one for the rest of this task; who calls this ends it. See `span`."""
    if _tracer is None:
        return NO_SPAN
    started = _start(_tracer, name, kind, attributes, remote_parent)
    _current.set(started)
    return started


def apart(name: str, kind: SpanKind = SpanKind.INTERNAL, attributes: Mapping[str, Value] | None = None) -> Span:
    """Begin a span below the current one that is nobody's current one; who calls this ends it."""
    return NO_SPAN if _tracer is None else _start(_tracer, name, kind, attributes, None)


def within(parent: Span) -> AbstractContextManager[Span]:
    """Let the block work below a span that was begun elsewhere."""
    return _NO_SPAN if _tracer is None or parent is NO_SPAN else _Block(parent, ends=False)


def leave_trace() -> None:
    """Let the rest of this task belong to no trace: it goes on long after what it was started for."""
    if _tracer is not None:
        _current.set(NO_SPAN)


def current_span() -> Span:
    """Return the span that this work belongs to."""
    return NO_SPAN if _tracer is None else _current.get(NO_SPAN)


def upstream_traceparent(host: str) -> str:
    """Return the `traceparent` for a request to a host outside of the installation; empty where it is to have none."""
    if _tracer is None or not _tracer.names_upstream(host):
        return ""
    return current_span().traceparent


def error_type(error: BaseException) -> str:
    """Return what a span says of an error: nothing that a caller or an upstream has written."""
    if isinstance(error, CoxswainError):
        return error.reason
    return "CANCELLED" if isinstance(error, asyncio.CancelledError | GeneratorExit) else type(error).__name__


def _start(
    tracer: Tracer, name: str, kind: SpanKind, attributes: Mapping[str, Value] | None, remote_parent: str | None
) -> Span:
    parent = _current.get(None) if remote_parent is None else None
    return tracer.start(name, kind, attributes or {}, parent, remote_parent or "")
