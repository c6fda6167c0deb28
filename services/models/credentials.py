"""Keys for upstreams, from auth, for the place they are sent to."""

import time
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from coxswain.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from services.common.errors import PermissionDenied
from services.common.grpc.call import current_principal
from services.common.grpc.status import from_rpc_error

_CACHE_SIZE = 10_000
_Key = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class UpstreamCredential:
    """A key and whose it is. An empty token means that the upstream is called without one."""

    token: str = field(repr=False)
    on_behalf_of_user: bool = False
    from_cache: bool = False
    """Whether it may have been replaced since."""


class CredentialSource(Protocol):
    """Gives the credential of the calling principal."""

    async def resolve(self, provider: str, origin: str) -> UpstreamCredential:
        """Return the credential for `provider` at `origin`; an empty origin is wherever the credential belongs.

        Raises:
            CoxswainError: there is none, or auth refused.
        """
        ...

    def forget(self, provider: str, origin: str) -> None:
        """Ask auth again the next time: the upstream refused the credential."""
        ...


class AuthCredentials:
    """Asks auth, and remembers the answer as long as auth allows, for the same group, subject and session only."""

    def __init__(self, channel: grpc.aio.Channel, keyless_origins: frozenset[str]) -> None:
        """`keyless_origins` are called without a key where none is configured."""
        self._stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._keyless_origins = keyless_origins
        self._cache: dict[_Key, tuple[float, UpstreamCredential]] = {}

    async def resolve(self, provider: str, origin: str) -> UpstreamCredential:
        """Return the calling principal's credential; see `CredentialSource`."""
        key = _cache_key(provider, origin)
        entry = self._cache.get(key)
        if entry is not None and entry[0] > time.time():
            return entry[1]
        try:
            response = await self._stub.ResolveCredential(
                auth_service_pb2.ResolveCredentialRequest(
                    purpose=auth_service_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER,
                    provider=provider,
                    destination_origin=origin,
                )
            )
        except grpc.RpcError as error:
            failure = from_rpc_error(error, "auth")
            if failure.reason == "CREDENTIAL_NOT_CONFIGURED" and origin in self._keyless_origins:
                return UpstreamCredential("")
            raise failure from error
        if origin and response.origin != origin:
            raise PermissionDenied(
                f"the credential for {provider} belongs to another address than {origin}",
                reason="DESTINATION_NOT_ALLOWED",
                metadata={"origin": origin},
            )
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[key] = (
            response.expire_time.ToNanoseconds() / 1e9,
            UpstreamCredential(response.token, response.on_behalf_of_user, from_cache=True),
        )
        return UpstreamCredential(response.token, response.on_behalf_of_user)

    def forget(self, provider: str, origin: str) -> None:
        """Drop what is remembered for the calling principal."""
        self._cache.pop(_cache_key(provider, origin), None)


def _cache_key(provider: str, origin: str) -> _Key:
    principal = current_principal()
    return (principal.group_id, principal.subject, principal.session_id, provider, origin)
