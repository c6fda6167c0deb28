"""What is counted of every call."""

import functools
import time

from prometheus_client import Counter, Gauge, Histogram

from services.common.grpc.call import Call
from services.common.grpc.method import Method

REFUSED = Counter(
    "coxswain_rpc_refused_total",
    "Calls and streams refused because too many were open, by what was counted.",
    ("counted",),
)
OPEN = Gauge("coxswain_rpc_open", "Calls and streams that are open now, by listener and kind.", ("listener", "kind"))
_CALLS = Counter("coxswain_rpc_total", "Calls served, by method, caller and status code.", ("method", "caller", "code"))
_SECONDS = Histogram(
    "coxswain_rpc_seconds",
    "Seconds until a call was answered (until its end for streams), by method and caller.",
    ("method", "caller"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
_PROTOCOL_REFUSALS = Counter(
    "coxswain_protocol_refusals_total",
    "Calls of another protocol's service that were refused with a reason of that protocol, by method and reason.",
    ("method", "reason"),
)
# Each look-up takes a lock and makes texts of the labels.
_calls, _seconds = functools.cache(_CALLS.labels), functools.cache(_SECONDS.labels)

_CLIENT = "client"
"""Whoever does not prove to be a service."""
_WATCHED = ("OK", "INTERNAL", "UNAVAILABLE")


def expect_calls(method: Method) -> None:
    """Have the counts of a method from the start: a rate sees no first call of a count that begins with it."""
    for caller in method.access.callers or (_CLIENT,):
        _seconds(method.path, caller)
        for code in _WATCHED:
            _calls(method.path, caller, code)


def count_protocol_refusal(method: str, reason: str) -> None:
    """Count a refusal with a reason of another protocol."""
    _PROTOCOL_REFUSALS.labels(method, reason).inc()


def count_call(call: Call) -> None:
    """Count a call that has ended, if that has not been done."""
    if call.counted:
        return
    call.counted = True
    caller = call.service or _CLIENT
    _calls(call.method, caller, call.outcome).inc()
    _seconds(call.method, caller).observe(time.perf_counter() - call.began)
