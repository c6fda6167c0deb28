"""As whom a call acts while it runs: principals are valid for minutes, and calls may take longer."""

import contextlib
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass

import grpc

from coxswain.auth.v1 import auth_service_pb2_grpc, delegation_pb2
from services.common.errors import PermissionDenied
from services.common.grpc.status import from_rpc_error
from services.common.identity.principal import Principal

_RENEW_BEFORE_SECONDS = 30.0


@dataclass(slots=True)
class _Acting:
    token: str
    good_until: float
    grant_id: str
    execution_id: str


_current: ContextVar[_Acting | None] = ContextVar("coxswain_tool_call", default=None)


@contextlib.asynccontextmanager
async def acting(principal: Principal, grant_id: str, execution_id: str) -> AsyncIterator[None]:
    """Let the block act as a principal; with the grant of its execution for as long as it takes."""
    good_until = principal.expires_at.timestamp() - _RENEW_BEFORE_SECONDS
    reset = _current.set(_Acting(principal.token, good_until, grant_id, execution_id))
    try:
        yield
    finally:
        _current.reset(reset)


class ActingPrincipal:
    """Gives the token of the principal that the running call acts as."""

    def __init__(self, auth: "auth_service_pb2_grpc.AuthServiceAsyncStub") -> None:
        self._auth = auth

    async def token(self, principal: Principal) -> str:
        """Return the token of the running call's principal, or that of `principal` outside of a call. A secret.

        Raises:
            CoxswainError: the grant of the execution was revoked, its credential has expired, or auth does not answer.
        """
        current = _current.get()
        if current is None:
            return principal.token
        if current.grant_id and time.time() >= current.good_until:
            request = delegation_pb2.IssueExecutionPrincipalRequest(
                grant_id=current.grant_id, execution_id=current.execution_id
            )
            try:
                response = await self._auth.IssueExecutionPrincipal(request)
            except grpc.RpcError as error:
                raise from_rpc_error(error, "auth") from error
            if response.principal.group_id != principal.group_id:
                raise PermissionDenied(
                    "the grant of the call is another group's", reason="DELEGATION_REVOKED", metadata={}
                )
            current.token = response.principal_token
            current.good_until = response.principal.expire_time.seconds - _RENEW_BEFORE_SECONDS
        return current.token
