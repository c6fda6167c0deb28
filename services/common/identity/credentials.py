"""Credentials to send to others, from auth, for the place they are sent to."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from coxswain.auth.v1 import auth_service_pb2_grpc, credential_pb2
from services.common.errors import PermissionDenied
from services.common.grpc.call import current_principal
from services.common.grpc.status import from_rpc_error

_CACHE_SIZE = 10_000
_Key = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class OutboundCredential:
    """A secret and whose it is. An empty token means that the destination is called without one."""

    token: str = field(repr=False)
    on_behalf_of_user: bool = False
    from_cache: bool = False
    """Whether it may have been replaced since."""


class CredentialSource(Protocol):
    """Gives the credentials of the calling principal, for one purpose."""

    async def resolve(self, origin: str, provider: str = "") -> OutboundCredential:
        """Return the credential for `origin`; an empty one is wherever the credential belongs.

        `provider` names whose credential it is where a purpose has several.

        Raises:
            CoxswainError: there is none, it may not be sent there, or auth cannot be asked.
        """
        ...

    def forget(self, origin: str, provider: str = "") -> None:
        """Ask auth again the next time: the destination refused the credential."""
        ...


class AuthCredentials:
    """Asks auth, and remembers the answer as long as auth allows, for the same group, subject and session only."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        purpose: credential_pb2.CredentialPurpose.ValueType,
        keyless_origins: frozenset[str] = frozenset(),
    ) -> None:
        """`keyless_origins` are called without a credential where none is configured."""
        self._stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._purpose = purpose
        self._keyless_origins = keyless_origins
        self._cache: dict[_Key, tuple[float, OutboundCredential]] = {}

    async def resolve(self, origin: str, provider: str = "") -> OutboundCredential:
        """Return the calling principal's credential; see `CredentialSource`."""
        key = _cache_key(origin, provider)
        entry = self._cache.get(key)
        if entry is not None and entry[0] > time.time():
            return entry[1]
        request = credential_pb2.ResolveCredentialRequest(
            purpose=self._purpose, provider=provider, destination_origin=origin
        )
        try:
            response = await self._stub.ResolveCredential(request)
        except grpc.RpcError as error:
            failure = from_rpc_error(error, "auth")
            if failure.reason == "CREDENTIAL_NOT_CONFIGURED" and origin in self._keyless_origins:
                return OutboundCredential("")
            raise failure from error
        if origin and response.origin != origin:
            raise PermissionDenied(
                f"the credential{f' for {provider}' if provider else ''} belongs to another address than {origin}",
                reason="DESTINATION_NOT_ALLOWED",
                metadata={"origin": origin},
            )
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[key] = (
            response.expire_time.ToNanoseconds() / 1e9,
            OutboundCredential(response.token, response.on_behalf_of_user, from_cache=True),
        )
        return OutboundCredential(response.token, response.on_behalf_of_user)

    def forget(self, origin: str, provider: str = "") -> None:
        """Drop what is remembered for the calling principal."""
        self._cache.pop(_cache_key(origin, provider), None)


def _cache_key(origin: str, provider: str) -> _Key:
    principal = current_principal()
    return (principal.group_id, principal.subject, principal.session_id, provider, origin)
