"""The span of a call that is served."""

from collections.abc import Mapping

from services.common.grpc.call import Call
from services.common.tracing.spans import NO_SPAN, TRACEPARENT, SpanKind, begin, is_on

# Codes that say that the server failed, not that the caller asked for what is not to be had.
_FAILURES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


def begin_call_span(call: Call, metadata: Mapping[str, str]) -> None:
    """Record a call that was let in, in the trace of its caller, else as a trace; what is done for it is below it.

    Strangers do not decide what is recorded: those who proved nothing begin traces of their own. What another service
    asks for without a trace is its background work, day and night, and is not recorded.
    """
    proven = bool(call.service) or call.principal is not None
    remote_parent = metadata.get(TRACEPARENT, "") if proven else ""
    if is_on() and (remote_parent or not call.service):
        method = call.method.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        call.span = begin(method, SpanKind.SERVER, attributes, remote_parent=remote_parent)


def end_call_span(call: Call) -> None:
    """Record the end of a call, once."""
    span, call.span = call.span, NO_SPAN
    if span is NO_SPAN:
        return
    span.note("rpc.response.status_code", call.outcome)
    if call.service:
        span.note("coxswain.caller", call.service)
    if call.principal is not None and call.principal.execution_id:
        span.note("coxswain.execution.id", call.principal.execution_id)
    if call.outcome in _FAILURES:
        span.fail(call.reason or call.outcome)
    span.end()
