"""Tokens for workspaces, from auth, for the place they are sent to."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from coxswain.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from services.common.errors import PermissionDenied
from services.common.grpc.call import current_principal
from services.common.grpc.status import from_rpc_error

_CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class WorkspaceCredential:
    """A token and whose it is."""

    token: str = field(repr=False)
    on_behalf_of_user: bool
    from_cache: bool
    """Whether it may have been replaced since."""


class CredentialSource(Protocol):
    """Gives the credential of the calling principal."""

    async def resolve(self, origin: str) -> WorkspaceCredential:
        """Return the credential for a workspace.

        Raises:
            CoxswainError: there is none, or it may not be sent there.
        """
        ...

    def forget(self, origin: str) -> None:
        """Ask auth again the next time: the workspace refused the credential."""
        ...


class AuthCredentials:
    """Asks auth, and remembers the answer as long as auth allows, for the same group, subject and session only."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._cache: dict[tuple[str, str, str, str], tuple[float, WorkspaceCredential]] = {}

    async def resolve(self, origin: str) -> WorkspaceCredential:
        """See `CredentialSource`."""
        key = _cache_key(origin)
        entry = self._cache.get(key)
        if entry is not None and entry[0] > time.time():
            return entry[1]
        request = auth_service_pb2.ResolveCredentialRequest(
            purpose=auth_service_pb2.CREDENTIAL_PURPOSE_VECTOR_SEARCH, destination_origin=origin
        )
        try:
            response = await self._stub.ResolveCredential(request)
        except grpc.RpcError as error:
            raise from_rpc_error(error, "auth") from error
        if response.origin != origin:
            raise PermissionDenied(
                f"the credential belongs to another workspace than {origin}",
                reason="DESTINATION_NOT_ALLOWED",
                metadata={"origin": origin},
            )
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[key] = (
            response.expire_time.ToNanoseconds() / 1e9,
            WorkspaceCredential(response.token, response.on_behalf_of_user, from_cache=True),
        )
        return WorkspaceCredential(response.token, response.on_behalf_of_user, from_cache=False)

    def forget(self, origin: str) -> None:
        """See `CredentialSource`."""
        self._cache.pop(_cache_key(origin), None)


def _cache_key(origin: str) -> tuple[str, str, str, str]:
    principal = current_principal()
    return (principal.group_id, principal.subject, principal.session_id, origin)
