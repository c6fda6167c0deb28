"""What a failed call raises: one class for each status code, with everything the server said about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that broke a rule."""

    field: str
    """Path of the field in the request. Example: ``spec.tasks[1].agent``."""
    description: str
    """What is wrong, and what is allowed instead."""


class CoxswainError(Exception):
    """A call that failed. Subclasses fix ``code``; codes without one of their own raise this class."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code: grpc.StatusCode = code or self.status
        self.reason = reason
        """Name of an ErrorReason, such as ``NOT_FOUND``; empty when the failure is not a server's answer (a lost
        connection, a client's deadline)."""
        self.metadata = dict(metadata or {})
        """What the reason is about: resource, id, model and so on."""
        self.violations = tuple(violations)
        self.retry_after = retry_after
        """Seconds after which the server suggests to try again."""
        self.request_id = request_id
        """The id under which the servers logged the call."""

    def __str__(self) -> str:
        name = self.code.name if self.reason in {"", self.code.name} else f"{self.code.name}, {self.reason}"
        faults = [f"{violation.field}: {violation.description}" for violation in self.violations]
        return "\n".join([f"{self.message} ({name})", *(f"  {fault}" for fault in faults if fault not in self.message)])


class Cancelled(CoxswainError):
    """The call was cancelled."""

    status = grpc.StatusCode.CANCELLED


class InvalidArgument(CoxswainError):
    """The request breaks a rule; ``violations`` names each field."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceeded(CoxswainError):
    """The deadline passed before the call was answered."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFound(CoxswainError):
    """The caller's group has nothing of that id or name."""

    status = grpc.StatusCode.NOT_FOUND


class AlreadyExists(CoxswainError):
    """The name is taken, or the request_id was used with another body."""

    status = grpc.StatusCode.ALREADY_EXISTS


class PermissionDenied(CoxswainError):
    """The caller may not do that."""

    status = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(CoxswainError):
    """A rate, a quota, a budget or a message size is used up."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPrecondition(CoxswainError):
    """The request is well formed but cannot be served in the present state."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(CoxswainError):
    """Another caller changed it first, or only a part was done: read again and repeat."""

    status = grpc.StatusCode.ABORTED


class Unimplemented(CoxswainError):
    """This installation does not serve that method."""

    status = grpc.StatusCode.UNIMPLEMENTED


class Internal(CoxswainError):
    """The server failed; its log has the cause under ``request_id``."""

    status = grpc.StatusCode.INTERNAL


class Unavailable(CoxswainError):
    """The server, or a service it depends on, does not answer."""

    status = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(CoxswainError):
    """The credential is missing, expired or refused."""

    status = grpc.StatusCode.UNAUTHENTICATED


_CLASSES: dict[grpc.StatusCode, type[CoxswainError]] = {kind.status: kind for kind in CoxswainError.__subclasses__()}


def _status_details(error: Any) -> list[Any]:
    """The google.rpc details of a failed call; none when the answer carries none that can be read."""
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return []
    return list(status.details) if isinstance(status, status_pb2.Status) else []


def from_rpc_error(error: grpc.RpcError) -> CoxswainError:
    """The typed error of a failed call, of grpc or grpc.aio."""
    call: Any = error
    code: grpc.StatusCode = call.code() or grpc.StatusCode.UNKNOWN
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, request = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo()
    for detail in _status_details(call):
        for message in (info, bad_request, retry, request):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    return _CLASSES.get(code, CoxswainError)(
        call.details() or code.name.lower().replace("_", " "),
        code=code,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=[FieldViolation(item.field, item.description) for item in bad_request.field_violations],
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        request_id=request.request_id,
    )
