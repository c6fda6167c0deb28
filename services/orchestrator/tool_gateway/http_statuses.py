"""What the status of an HTTP response says about a call."""

from services.common import retry_after
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown

_LONGEST_ADVICE = 3600.0
"""Seconds of `Retry-After` that are believed, at most."""


def check_status(status: int, answer: str, advice: str, *, idempotent: bool) -> None:
    """Return when a status says that the request was understood and declined, which is an answer for the model.

    What HTTP promises decides. A 429 is sent instead of doing what was asked (RFC 6585), so the call may be made again.
    A 503 makes no such promise: proxies send it for requests that were lost behind them, too. It counts as "try later"
    only for calls that may be repeated anyway.

    Raises:
        NotSent, OutcomeUnknown, CallRefused: it says something else.
    """
    wait = parse_retry_after(advice)
    if status in (401, 403):
        raise CallRefused(
            f"the credential was refused: {answer}. Check the source's auth, and what its owner may do",
            reason="UPSTREAM_CREDENTIAL_REJECTED",
        )
    if status in (425, 429):
        raise NotSent(f"the source takes no more calls now: {answer}", reason="TOOL_RATE_LIMITED", retry_after=wait)
    if status == 503 and wait is not None and idempotent:
        raise NotSent(f"the source is busy: {answer}", retry_after=wait)
    # 408 and 499 come from servers and proxies that gave up, whatever had been done by then.
    if status >= 500 or status in (408, 499) or status < 200:
        raise OutcomeUnknown(f"the source answered with {answer}")


def parse_retry_after(value: str) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, at most an hour; None when it says nothing."""
    return retry_after.parse_retry_after(value, _LONGEST_ADVICE)
