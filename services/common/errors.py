"""Failures that callers are meant to see. Use cases raise them; the gRPC edge turns them into `google.rpc.Status`.

Anything else that is raised reaches the caller as INTERNAL without its text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from services.common.resource_key import ResourceKey

_WAITING = "waiting"
_REASONS_OF_LIMITS = frozenset(
    {"QUOTA_EXCEEDED", "BUDGET_EXCEEDED", "OVERLOADED", "ARTIFACT_LIMIT_REACHED", "EXECUTION_LIMIT_REACHED"}
)
# The metadata that names a limit, by these reasons.
_NAMES_OF_LIMITS = ("quota", "budget", "counted", "limit")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field at fault."""

    field: str
    """Path from the request's root. Example: `spec.tasks[1].agent`."""
    description: str
    """What is wrong, what is allowed, and how to correct it."""


@dataclass(frozen=True, slots=True)
class ProtocolReason:
    """What a failure is called in a protocol that is not the product's own."""

    domain: str
    """Example: `a2a-protocol.org`."""
    reason: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class CoxswainError(Exception):
    """Base of all failures callers see.

    `reason` is the name of a `coxswain.common.v1.ErrorReason` without its prefix; `retry_after` is in seconds.
    `protocol` is what callers of another protocol's service look for first.
    """

    code = "INTERNAL"
    """Name of the gRPC status code."""
    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        protocol: ProtocolReason | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.protocol = protocol


class InvalidArgument(CoxswainError):
    """The request is wrong whatever the state of the system."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_FIELD"

    @classmethod
    def field(cls, path: str, description: str, *, reason: str = "") -> Self:
        """Return the failure of one field."""
        return cls.fields([FieldViolation(path, description)], reason=reason)

    @classmethod
    def fields(cls, violations: Sequence[FieldViolation], *, reason: str = "") -> Self:
        """Return the failure of one field or several."""
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        return cls(message, reason=reason, violations=violations)


class NotFound(CoxswainError):
    """The resource does not exist in the caller's group."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"

    @classmethod
    def of(cls, resource: str, identifier: str) -> Self:
        """Return the failure to find one resource."""
        return cls(
            f'there is no {resource} "{identifier}" in your group', metadata={"resource": resource, "id": identifier}
        )

    @classmethod
    def by_key(cls, resource: str, key: ResourceKey) -> Self:
        """Return the failure to find a resource by its id or name; a name in the place of an id is pointed out."""
        named = key.id and not _ID.fullmatch(key.id)
        hint = f'; "{key.id}" does not look like an id: if it is a name, send it as name' if named else ""
        return cls(
            f'there is no {resource} "{key}" in your group{hint}', metadata={"resource": resource, "id": str(key)}
        )


class AlreadyExists(CoxswainError):
    """The name or request_id is taken."""

    code = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"

    @classmethod
    def named(cls, resource: str, name: str) -> Self:
        """Return the failure of a name that another resource of the group has."""
        return cls(
            f'the group has a {resource} named "{name}"; update that one or choose another name',
            metadata={"resource": resource, "name": name},
        )

    @classmethod
    def request_id(cls, request_id: str) -> Self:
        """Return the failure of a request_id that was used with another body."""
        return cls(
            f'request_id "{request_id}" was used before with another body; choose a new one for a new request',
            reason="REQUEST_ID_REUSED",
            metadata={"request_id": request_id},
        )


class FailedPrecondition(CoxswainError):
    """The system is not in the state the request needs; the caller has to change something first."""

    code = "FAILED_PRECONDITION"


class Aborted(CoxswainError):
    """The request lost against another one; read again and repeat it."""

    code = "ABORTED"

    @classmethod
    def revision(cls, resource: str, identifier: str, expected: int, actual: int) -> Self:
        """Return the failure of a change to what was changed since it was read."""
        return cls(
            f"the {resource} is at revision {actual}, not {expected}: read it and change it again",
            reason="REVISION_MISMATCH",
            metadata={"resource": resource, "id": identifier, "expected": str(expected), "actual": str(actual)},
        )


class PermissionDenied(CoxswainError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(CoxswainError):
    """The caller did not prove who they are."""

    code = "UNAUTHENTICATED"
    default_reason = "CREDENTIAL_MISSING"


class ResourceExhausted(CoxswainError):
    """A limit is reached. The text says so where waiting does not help: where there is no time to wait for."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
    ) -> None:
        if retry_after is None and _WAITING not in message:
            message = f"{message}; {_WAITING} does not help"
        super().__init__(message, reason=reason, metadata=metadata, violations=violations, retry_after=retry_after)

    @property
    def limit(self) -> str:
        """The name of the limit that is reached; empty where it is not one of this installation's."""
        if self.reason not in _REASONS_OF_LIMITS:
            return ""
        return next((self.metadata[key] for key in _NAMES_OF_LIMITS if key in self.metadata), "")


class Unavailable(CoxswainError):
    """Something needed does not answer; trying again may help."""

    code = "UNAVAILABLE"
    default_reason = "DEPENDENCY_UNAVAILABLE"

    @classmethod
    def shutting_down(cls, text: str, retry_after: float) -> Self:
        """Say that this process ends, and in `text` what to do after so many seconds; another process serves it."""
        return cls(text, reason="SHUTTING_DOWN", retry_after=retry_after)


class Unimplemented(CoxswainError):
    """The installation does not have that part."""

    code = "UNIMPLEMENTED"
    default_reason = "NOT_IMPLEMENTED"


class DeadlineExceeded(CoxswainError):
    """The time allowed ran out."""

    code = "DEADLINE_EXCEEDED"


class Internal(CoxswainError):
    """The server failed, and the message is fit for callers."""

    code = "INTERNAL"
