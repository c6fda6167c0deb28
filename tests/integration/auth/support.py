"""Calling auth as somebody, and reading why it refused."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from coxswain.auth.v1 import credential_pb2, principal_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from services.auth.settings import AuthSettings
from services.common.grpc.call import acting_as
from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import PARTS, SERVICES
from tests.support.exhausted import fault_of_exhausted
from tests.support.harness import Harness

if TYPE_CHECKING:
    from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub
    from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceAsyncStub
    from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceAsyncStub


@dataclass
class Refusal:
    """A failed call: status code, reason and metadata of its ErrorInfo, fields of its BadRequest, pause to wait for."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    message: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    retry_seconds: float | None = None


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str) -> Iterator[Refusal]:
    """Expect a call to fail with a status code and a reason."""
    refusal = Refusal()
    try:
        yield refusal
    except grpc.aio.AioRpcError as error:
        refusal.code, refusal.message = error.code(), error.details() or ""
        status = rpc_status.from_call(cast("Any", error))
        assert not fault_of_exhausted(status or status_pb2.Status())
        for detail in status.details if status else ():
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                refusal.reason, refusal.metadata = info.reason, dict(info.metadata)
            pause = error_details_pb2.RetryInfo()
            if detail.Unpack(pause):
                refusal.retry_seconds = pause.retry_delay.ToTimedelta().total_seconds()
            bad = error_details_pb2.BadRequest()
            if detail.Unpack(bad):
                refusal.fields = [violation.field for violation in bad.field_violations]
        assert (refusal.code, refusal.reason) == (code, reason), refusal
    else:
        raise AssertionError(f"the call succeeded; expected {code.name} {reason}")


def public(harness: Harness, bearer: str, group: str = "") -> "AuthServiceAsyncStub":
    """Return a stub on the public listener with a development identity ("" for none)."""
    channel: grpc.aio.Channel = harness.channel(bearer, group=group)
    return AuthServiceStub(channel)


def secrets(harness: Harness, bearer: str) -> "SecretServiceAsyncStub":
    """Return a stub of SecretService with a development identity."""
    channel: grpc.aio.Channel = harness.channel(bearer)
    return SecretServiceStub(channel)


def groups(harness: Harness, bearer: str, group: str = "") -> "GroupServiceAsyncStub":
    """Return a stub of GroupService with a development identity."""
    channel: grpc.aio.Channel = harness.channel(bearer, group=group)
    return GroupServiceStub(channel)


async def token_of(harness: Harness, bearer: str) -> str:
    """Return a principal token of a development identity ("" for none)."""
    request = principal_pb2.ExchangeTokenRequest(authorization=f"Bearer {bearer}" if bearer else "")
    return (await public(harness, "").ExchangeToken(request)).principal_token


async def resolve(harness: Harness, bearer: str, **request: Any) -> credential_pb2.ResolveCredentialResponse:
    """Ask as the models service for a credential of a development identity."""
    with acting_as(await token_of(harness, bearer)):
        return await internal(harness, "models").ResolveCredential(credential_pb2.ResolveCredentialRequest(**request))


def llm(destination: str = "", provider: str = "openai") -> dict[str, Any]:
    """Return the request for an LLM provider's key."""
    purpose = credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER
    return {"purpose": purpose, "destination_origin": destination, "provider": provider}


def calling_service(method: str) -> str:
    """Return a service that may call a method of auth on the internal listener."""
    return "models" if method.endswith(("ResolveCredential", "ExplainCredentials")) else "orchestrator"


def internal(harness: Harness, service: str = "orchestrator") -> "AuthServiceAsyncStub":
    """Return a stub on the internal listener that acts as a service; act for a caller with `acting_as(token)`."""
    return AuthServiceStub(harness.peers(service).channel("auth"))


# Outside dev mode

KEY_RING = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def make_service_keys(directory: Path) -> None:
    """Make the keys of services, as an operator does outside dev mode."""
    for name in (*SERVICES, *PARTS):
        ServiceIdentity.load(directory / "keys", name, create=True)


def guarded_settings(**changes: Any) -> AuthSettings:
    """Return settings fit for a mode other than dev, with caches that do not hide what a test changes."""
    values: dict[str, Any] = {
        "key_ring": KEY_RING,
        "bootstrap_group": "sales",
        "refused_seconds": 0,
        "unknown_key_pause_seconds": 0.001,
        "clock_skew_seconds": 0,
    }
    return AuthSettings(**(values | changes))


def stub(harness: Harness, token: str = "", *, forwarded: str = "", group: str = "") -> "AuthServiceAsyncStub":
    """Return a stub on the public listener with a token in one of the two headers."""
    headers = {"x-forwarded-access-token": forwarded} if forwarded else {}
    channel: grpc.aio.Channel = harness.channel(token, group=group, headers=headers)
    return AuthServiceStub(channel)


async def who(harness: Harness, token: str) -> principal_pb2.WhoAmIResponse:
    """Return whom auth takes the bearer of a token for."""
    return await stub(harness, token).WhoAmI(principal_pb2.WhoAmIRequest())


async def exchange(harness: Harness, token: str) -> str:
    """Return the principal token for a caller's token."""
    request = principal_pb2.ExchangeTokenRequest(forwarded_access_token=token)
    return (await stub(harness).ExchangeToken(request)).principal_token
