"""What the status of a call says that a peer has refused."""

import contextlib

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_STATUS_DETAILS = "grpc-status-details-bin"

REFUSALS = {
    grpc.StatusCode.NOT_FOUND: "TOOL_NOT_FOUND",
    grpc.StatusCode.INVALID_ARGUMENT: "TOOL_ARGUMENTS",
    grpc.StatusCode.FAILED_PRECONDITION: "TOOL_REFUSED",
    grpc.StatusCode.PERMISSION_DENIED: "TOOL_REFUSED",
    grpc.StatusCode.UNIMPLEMENTED: "TOOL_UNAVAILABLE",
}
"""Statuses that a peer sends instead of taking a call, and what they are called here."""


def retry_after(error: grpc.aio.AioRpcError) -> float | None:
    """Return the seconds in a status's RetryInfo, None without one."""
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_DETAILS and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                return _retry_info(status_pb2.Status.FromString(value))
    return None


def _retry_info(status: status_pb2.Status) -> float | None:
    info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            return max(0.0, info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
