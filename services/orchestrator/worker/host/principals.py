"""The principal an execution acts as: issued through its grant, and renewed before it expires."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from coxswain.auth.v1 import auth_service_pb2_grpc, delegation_pb2
from services.common.errors import CoxswainError, Unauthenticated
from services.common.grpc.call import acting_as
from services.common.grpc.limit_messages import limits_from_proto
from services.common.grpc.status import from_rpc_error
from services.common.identity.group_limits import NO_GROUP_LIMITS, GroupLimits

T = TypeVar("T")

_RENEW_BEFORE_SECONDS = 60.0


class CredentialExpired(Exception):
    """The credential the execution was started with has expired; only its user can renew it."""


class ExecutionPrincipal:
    """The principal of one execution."""

    def __init__(self, auth: "auth_service_pb2_grpc.AuthServiceAsyncStub", execution_id: str, grant_id: str) -> None:
        self._auth = auth
        self._request = delegation_pb2.IssueExecutionPrincipalRequest(grant_id=grant_id, execution_id=execution_id)
        self._token = ""
        self._good_until = 0.0
        self._renewing = asyncio.Lock()
        self._refused = False
        self._limits: GroupLimits | None = None

    async def act(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns, whose calls to other services are made as the execution.

        The credential may have expired, or have been renewed, since the principal was issued: then `call` is made once
        more with a fresh principal.

        Raises:
            CredentialExpired: the user's credential has expired.
            CoxswainError: what `call` raises; the grant was revoked, or auth does not answer.
        """
        token = await self._current()
        try:
            with acting_as(token):
                return await call()
        except Unauthenticated as error:
            if error.reason != "CREDENTIAL_EXPIRED":
                raise
        if token == self._token:
            self._good_until = 0.0
        try:
            with acting_as(await self._current()):
                return await call()
        except Unauthenticated as error:
            if error.reason != "CREDENTIAL_EXPIRED":
                raise
            raise CredentialExpired(error.message) from error

    async def prepare(self) -> None:
        """Get a principal before it is needed. Where that fails, the call that needs it finds out why."""
        with contextlib.suppress(CredentialExpired, CoxswainError):
            await self._current()

    async def limits(self) -> GroupLimits:
        """Return what the operator allows the group, as auth said last; it is asked when it has not said so yet.

        Raises:
            CredentialExpired: the user's credential has expired.
            CoxswainError: the grant was revoked, or auth does not answer.
        """
        if self._limits is None:
            await self._current()
        return self._limits or NO_GROUP_LIMITS

    async def renewed(self) -> bool:
        """Return whether auth lets the execution act again after it has refused to."""
        if not self._refused:
            return False
        try:
            await self._current()
        except (CredentialExpired, CoxswainError):
            return False
        return True

    async def _current(self) -> str:
        """Return a principal token that is good for a while. A secret."""
        async with self._renewing:
            if time.time() >= self._good_until:
                try:
                    response = await self._auth.IssueExecutionPrincipal(self._request)
                except grpc.RpcError as error:
                    failure = from_rpc_error(error, "auth")
                    if isinstance(failure, Unauthenticated) and failure.reason == "CREDENTIAL_EXPIRED":
                        self._refused = True
                        raise CredentialExpired(failure.message) from error
                    raise failure from error
                self._token = response.principal_token
                self._limits = limits_from_proto(response.limits)
                self._good_until = response.principal.expire_time.seconds - _RENEW_BEFORE_SECONDS
            return self._token
