"""Errors say everything the server said."""

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from coxswain.client import CoxswainError, InvalidArgument, NotFound, Unavailable
from coxswain.client.errors import from_rpc_error


class FailedCall(grpc.RpcError):
    """What grpc raises, as far as the client looks at it."""

    def __init__(self, code: grpc.StatusCode, message: str | None, details: list[object] | bytes | None = None) -> None:
        self._code, self._message = code, message
        self._trailing: tuple[tuple[str, bytes], ...] = ()
        if isinstance(details, bytes):
            self._trailing = (("grpc-status-details-bin", details),)
        elif details is not None:
            status = status_pb2.Status(code=code.value[0], message=message or "")
            for detail in details:
                packed = any_pb2.Any()
                packed.Pack(detail)  # type: ignore[arg-type]
                status.details.append(packed)
            self._trailing = (("grpc-status-details-bin", status.SerializeToString()),)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._message

    def trailing_metadata(self) -> Any:
        return self._trailing


def test_every_detail_of_a_refusal_is_kept() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    error = from_rpc_error(
        FailedCall(
            grpc.StatusCode.INVALID_ARGUMENT,
            "the crew cannot run",
            [
                error_details_pb2.ErrorInfo(reason="CREW_INVALID", domain="coxswain", metadata={"crew": "brief"}),
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field="spec.tasks[1].agent", description="unknown agent 'editr'"
                        )
                    ]
                ),
                retry,
                error_details_pb2.RequestInfo(request_id="r-1"),
            ],
        )
    )
    assert isinstance(error, InvalidArgument)
    assert (error.reason, error.metadata, error.retry_after, error.request_id) == (
        "CREW_INVALID",
        {"crew": "brief"},
        1.5,
        "r-1",
    )
    assert [(violation.field, violation.description) for violation in error.violations] == [
        ("spec.tasks[1].agent", "unknown agent 'editr'")
    ]
    assert str(error) == (
        "the crew cannot run (INVALID_ARGUMENT, CREW_INVALID)\n  spec.tasks[1].agent: unknown agent 'editr'"
    )


def test_what_the_message_says_is_not_said_twice() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="crew_id", description="value is required")
    error = from_rpc_error(
        FailedCall(
            grpc.StatusCode.INVALID_ARGUMENT,
            "crew_id: value is required",
            [error_details_pb2.BadRequest(field_violations=[violation])],
        )
    )
    assert str(error) == "crew_id: value is required (INVALID_ARGUMENT)"


@pytest.mark.parametrize("details", [None, b"\xff\xff\xff", b""])
def test_a_failure_without_readable_details_is_still_typed(details: bytes | None) -> None:
    error = from_rpc_error(FailedCall(grpc.StatusCode.UNAVAILABLE, "Socket closed", details))
    assert isinstance(error, Unavailable)
    assert (error.message, error.reason, error.violations) == ("Socket closed", "", ())


def test_details_that_contradict_the_status_are_not_believed() -> None:
    status = status_pb2.Status(code=5, message="other").SerializeToString()
    assert isinstance(from_rpc_error(FailedCall(grpc.StatusCode.NOT_FOUND, "mine", status)), NotFound)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_code_becomes_an_error_of_that_code(code: grpc.StatusCode) -> None:
    error = from_rpc_error(FailedCall(code, None))
    assert isinstance(error, CoxswainError)
    assert error.code is code
    assert error.message
