"""What goes wrong in A2A, by the protocol's own names: the one place that says which status each has."""

from collections.abc import Mapping

from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ProtocolReason,
    Unimplemented,
)

DOMAIN = "a2a-protocol.org"
_REASONS: Mapping[str, tuple[type[CoxswainError], str]] = {
    "TASK_NOT_FOUND": (NotFound, "NOT_FOUND"),
    "TASK_NOT_CANCELABLE": (FailedPrecondition, "EXECUTION_STATE"),
    "UNSUPPORTED_OPERATION": (FailedPrecondition, "EXECUTION_STATE"),
    "CONTENT_TYPE_NOT_SUPPORTED": (InvalidArgument, "INVALID_FIELD"),
    # Clients of 1.0.0 that look at the code expect this one; those of 1.0.1 decide by the reason.
    "VERSION_NOT_SUPPORTED": (Unimplemented, "NOT_IMPLEMENTED"),
}
"""By the reason of A2A: the status, and the product's own reason."""


def a2a_error(reason: str, message: str, **metadata: str) -> CoxswainError:
    """Return a failure with a reason of A2A."""
    kind, own_reason = _REASONS[reason]
    return kind(message, reason=own_reason, protocol=ProtocolReason(DOMAIN, reason, metadata))


def task_not_found() -> CoxswainError:
    """Return the failure to find a task or an agent: the same for one that never was, and one of another group."""
    return a2a_error("TASK_NOT_FOUND", "there is no such task or agent in your group")


def unsupported(message: str) -> CoxswainError:
    """Return the refusal of what the task's state does not allow."""
    return a2a_error("UNSUPPORTED_OPERATION", message)
