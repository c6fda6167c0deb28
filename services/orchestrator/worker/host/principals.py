"""Whom an execution acts as: principals issued through its grant, renewed before they expire."""

import asyncio
import time

import grpc

from coxswain.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from services.common.errors import Unauthenticated
from services.common.grpc.status import from_rpc_error

_RENEW_BEFORE_SECONDS = 60.0


class CredentialExpired(Exception):
    """The credential the execution was started with has expired; only its user can renew it."""


class ExecutionPrincipal:
    """The principal of one execution."""

    def __init__(self, auth: "auth_service_pb2_grpc.AuthServiceAsyncStub", execution_id: str, grant_id: str) -> None:
        self._auth = auth
        self._request = auth_service_pb2.IssueExecutionPrincipalRequest(grant_id=grant_id, execution_id=execution_id)
        self._token = ""
        self._good_until = 0.0
        self._renewing = asyncio.Lock()

    async def token(self) -> str:
        """Return a principal token that is good for a while. A secret.

        Raises:
            CredentialExpired: the user's credential has expired.
            CoxswainError: the grant was revoked, or auth does not answer.
        """
        async with self._renewing:
            if time.time() >= self._good_until:
                try:
                    response = await self._auth.IssueExecutionPrincipal(self._request)
                except grpc.RpcError as error:
                    told = from_rpc_error(error, "auth")
                    if isinstance(told, Unauthenticated) and told.reason == "CREDENTIAL_EXPIRED":
                        raise CredentialExpired(told.message) from error
                    raise told from error
                self._token = response.principal_token
                self._good_until = response.principal.expire_time.seconds - _RENEW_BEFORE_SECONDS
            return self._token
