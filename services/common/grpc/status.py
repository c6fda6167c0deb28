"""Errors as `google.rpc.Status` and back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from services.common.errors import (
    Aborted,
    AlreadyExists,
    CoxswainError,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

DOMAIN = "coxswain"
DETAILS_KEY = "grpc-status-details-bin"
_RETRY_DELAY_KEY = "grpc-retry-pushback-ms"
# Clients refuse trailers of more than 8 KiB, and would never see what is wrong. The message goes there twice: in the
# details, and with every byte that is no plain ASCII as three.
_MAX_MESSAGE_BYTES = 1800
_MAX_METADATA_BYTES = 1500
# Room for lists that programs read, such as the ids of what failed: their makers keep to it, as half a list is none.
_MAX_METADATA_VALUE_BYTES = 1300
_MAX_VIOLATIONS_BYTES = 1500
_MAX_PATH_BYTES = 200
_MAX_VALUE_BYTES = 700
_CUT = " [...]"
_TOO_LARGE = "larger than max"
"""What gRPC says of a message that it refuses by its size, on either side."""
_BY_CODE: dict[str, type[CoxswainError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Aborted,
        PermissionDenied,
        Unauthenticated,
        ResourceExhausted,
        Unavailable,
        Unimplemented,
        DeadlineExceeded,
        Internal,
    )
}


def failure_metadata(error: CoxswainError, status: status_pb2.Status) -> tuple[tuple[str, str | bytes], ...]:
    """Return the metadata that ends a call with a rich status.

    Upstreams have been asked as often as is sensible: gRPC in the caller, which repeats calls by itself, is told not to
    multiply that. Some of these answers were billed.
    """
    details = (DETAILS_KEY, status.SerializeToString())
    return (details, (_RETRY_DELAY_KEY, "-1")) if error.reason.startswith("UPSTREAM_") else (details,)


def to_status(
    error: CoxswainError, request_id: str, *, foreign: bool = False
) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """Return the code and the rich status of an error, shortened to what fits into the trailers of a call.

    `foreign` is a call of another protocol's service: its reason comes first, or else the fields at fault.
    """
    code = grpc.StatusCode[error.code]
    status = status_pb2.Status(code=code.value[0], message=_shortened(error.message, _MAX_MESSAGE_BYTES))
    if (own := error.protocol) is not None:
        info = error_details_pb2.ErrorInfo(reason=own.reason, domain=own.domain, metadata=dict(_bounded(own.metadata)))
        _add(status, info)
    details: list[object] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(_bounded(error.metadata)))
    ]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                    for field, description in _first(error.violations)
                ]
            )
        )
    for detail in reversed(details) if foreign and own is None else details:
        _add(status, detail)
    if isinstance(error, ResourceExhausted) and error.limit:
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=f"limit:{_shortened(error.limit, _MAX_PATH_BYTES)}",
            description=_shortened(error.message, _MAX_VALUE_BYTES),
        )
        _add(status, error_details_pb2.QuotaFailure(violations=[violation]))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if request_id:
        _add(status, error_details_pb2.RequestInfo(request_id=request_id))
    return code, status


def from_rpc_error(error: grpc.RpcError, dependency: str) -> CoxswainError:
    """Return what a failed call to another service means to our own caller.

    A failure the other service explained keeps its code and explanation, and a message that gRPC refuses by its size
    is none that could be repeated; everything else is the dependency not answering.
    """
    call = cast("grpc.aio.AioRpcError", error)
    status = _rich_status(call)
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        for message in (info, bad_request, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    code = call.code().name
    if info.domain == DOMAIN and code in _BY_CODE and code != Internal.code:
        return _BY_CODE[code](
            call.details() or "",
            reason=info.reason,
            metadata=dict(info.metadata),
            violations=[FieldViolation(v.field, v.description) for v in bad_request.field_violations],
            retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
        )
    if code == DeadlineExceeded.code:
        return DeadlineExceeded(
            f"the {dependency} service did not answer in time",
            reason="DEPENDENCY_UNAVAILABLE",
            metadata={"dependency": dependency},
        )
    if code == ResourceExhausted.code and _TOO_LARGE in (call.details() or ""):
        return ResourceExhausted(
            f"a message to or from the {dependency} service is larger than one can be; ask for less at once, or have "
            "the operator raise COXSWAIN_MAX_MESSAGE_BYTES",
            reason="RESPONSE_TOO_LARGE",
            metadata={"dependency": dependency},
        )
    return Unavailable(
        f"the {dependency} service does not answer; try again in a moment",
        metadata={"dependency": dependency},
        retry_after=1.0,
    )


def _rich_status(call: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return None


def _add(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(cast("any_pb2.Any", detail))
    status.details.append(packed)


def _first(violations: Sequence[FieldViolation]) -> Iterator[tuple[str, str]]:
    """Yield the first violations, one at least: who mends these is told of the others."""
    left = _MAX_VIOLATIONS_BYTES
    for position, violation in enumerate(violations):
        field = _shortened(violation.field, _MAX_PATH_BYTES)
        description = _shortened(violation.description, _MAX_VALUE_BYTES)
        left -= _size(field) + _size(description)
        if left < 0 and position:
            return
        yield field, description


def _bounded(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    left = _MAX_METADATA_BYTES
    for key, value in metadata.items():
        short = _shortened(value, _MAX_METADATA_VALUE_BYTES)
        left -= len(key) + _size(short)
        if left < 0:
            return
        yield key, short


def _shortened(text: str, size: int) -> str:
    """Return a text of at most `size` bytes in the form that trailers have."""
    if len(text) <= size and _size(text) <= size:
        return text
    kept = text[: size - len(_CUT)]
    while _size(kept) > size - len(_CUT):
        kept = kept[: len(kept) * 3 // 4]
    return kept + _CUT


def _size(text: str) -> int:
    return len(text) if text.isascii() and text.isprintable() else len(quote(text, safe=" ", errors="replace"))
