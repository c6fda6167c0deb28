"""Calling auth as somebody, and reading why it refused."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.common.grpc.call import acting_as
from tests.support.harness import Harness


@dataclass
class Refusal:
    """A failed call: status code, reason and metadata of its ErrorInfo."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    message: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str) -> Iterator[Refusal]:
    """Expect a call to fail with a status code and a reason."""
    refusal = Refusal()
    try:
        yield refusal
    except grpc.aio.AioRpcError as error:
        refusal.code, refusal.message = error.code(), error.details() or ""
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                refusal.reason, refusal.metadata = info.reason, dict(info.metadata)
        assert (refusal.code, refusal.reason) == (code, reason), refusal
    else:
        raise AssertionError(f"the call succeeded; expected {code.name} {reason}")


def public(harness: Harness, bearer: str, group: str = "") -> AuthServiceStub:
    """Return a stub on the public listener with a development identity ("" for none)."""
    return AuthServiceStub(harness.channel(bearer, group=group))


def internal(harness: Harness, service: str = "orchestrator") -> AuthServiceStub:
    """Return a stub on the internal listener that acts as a service; combine it with `acting_as`."""
    return AuthServiceStub(harness.peers(service).channel("auth"))


__all__ = ["Refusal", "acting_as", "internal", "public", "refused"]
