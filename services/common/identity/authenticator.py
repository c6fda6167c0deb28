"""From the metadata of a call to who makes it."""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.common.cache import AsyncCache
from services.common.errors import Unauthenticated
from services.common.identity.access_changes import AccessChanges, AccessChangeSource
from services.common.identity.group_limits import NO_GROUP_LIMITS
from services.common.identity.principal import Principal
from services.common.identity.principal_token import PrincipalVerifier
from services.common.identity.service_identity import ServiceTokenVerifier

AUTHORIZATION = "authorization"
FORWARDED_ACCESS_TOKEN = "x-forwarded-access-token"
GROUP = "x-group-id"
PRINCIPAL = "x-coxswain-principal"
SERVICE = "x-coxswain-service"
REQUEST_ID = "x-request-id"

_IDENTIFYING = frozenset({AUTHORIZATION, FORWARDED_ACCESS_TOKEN, GROUP, PRINCIPAL, SERVICE})
_CACHE_SIZE = 10_000
_EXPIRY_MARGIN_SECONDS = 10.0
_OUTDATED_PAUSE_SECONDS = 1.0
# An operator who lifts a limit waits for it to act.
_LIMITED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller sent to prove who they are, unverified. Both empty means nothing was sent."""

    authorization: str = field(default="", repr=False)
    """The value of `authorization`, scheme included."""
    forwarded_access_token: str = field(default="", repr=False)
    """The value of `x-forwarded-access-token`."""


NO_CREDENTIAL = Credential()
"""What a caller sent who sent nothing."""


class TokenExchanger(Protocol):
    """Exchanges a caller's credential for a principal; auth does it."""

    async def exchange(self, credential: Credential, group_id: str) -> Principal:
        """Return the verified principal, with its token, in the requested group (the sole one when empty).

        Raises:
            CoxswainError: the credential or the choice of group was refused.
        """
        ...


class Authenticator:
    """Verifies callers and remembers them for a short time.

    Entries are keyed by a keyed hash of credential and group: no credential is kept, and none can be derived from one.
    """

    def __init__(
        self,
        exchanger: TokenExchanger,
        principals: PrincipalVerifier,
        services: ServiceTokenVerifier,
        cache_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchanger = exchanger
        self._principals = principals
        self._services = services
        self._cache_seconds = cache_seconds
        self._hash_key = secrets.token_bytes(32)
        self._changes = AccessChanges()
        self._changed = asyncio.Event()
        self._callers = AsyncCache[bytes, Principal](_CACHE_SIZE, self._lifetime, clock=clock)

    async def caller(self, credential: Credential, group_id: str) -> Principal:
        """Return the principal of a caller from outside.

        Raises:
            CoxswainError: what auth refused.
        """
        key = self._key(credential, group_id)
        known = self._callers.peek(key)
        if known is not None and self._changes.outdated(known):
            self._callers.forget(key)
        return await self._callers.get(key, lambda: self._exchanger.exchange(credential, group_id))

    async def follow(self, source: AccessChangeSource) -> None:
        """Take over whose access has changed: the next call of these, and what streams to them, asks auth anew.

        Raises:
            CoxswainError: auth cannot be asked.
        """
        if self._changes.learn(await source.access_changes(self._changes.since)):
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def wait_for_change(self, principal: Principal, seconds: float) -> None:
        """Return when something about a principal has changed, or after some seconds.

        What was outdated already, as auth's replicas have different clocks or auth is away, waits a second.
        """
        if self._changes.outdated(principal):
            await asyncio.sleep(min(seconds, _OUTDATED_PAUSE_SECONDS))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._changes.outdated(principal):
                    await self._changed.wait()

    def remembered_seconds(self, credential: Credential, group_id: str) -> float:
        """Return how long `caller` keeps its answer without asking auth; 0 when it does not."""
        return self._callers.remaining(self._key(credential, group_id))

    def forget_group(self, group_id: str) -> None:
        """Ask auth again about callers in a group: something has changed that their principals carry."""

        def is_of_group(key: bytes) -> bool:
            principal = self._callers.peek(key)
            return principal is None or principal.group_id == group_id

        self._callers.forget_where(is_of_group)

    def _key(self, credential: Credential, group_id: str) -> bytes:
        material = f"{credential.authorization}\0{credential.forwarded_access_token}\0{group_id}"
        return hashlib.blake2b(material.encode(), key=self._hash_key, digest_size=32).digest()

    def _lifetime(self, principal: Principal) -> float:
        seconds = self._cache_seconds
        if principal.limits != NO_GROUP_LIMITS:
            seconds = min(seconds, _LIMITED_SECONDS)
        return min(seconds, principal.expires_at.timestamp() - time.time() - _EXPIRY_MARGIN_SECONDS)

    def service(self, token: str, audience: str) -> str:
        """Return the name of the calling service.

        Raises:
            Unauthenticated: no service of this installation signed the token for `audience`.
        """
        return self._services.verify(token, audience)

    async def forwarded(self, token: str) -> Principal:
        """Return the principal an authenticated service acts for.

        Raises:
            Unauthenticated: auth did not sign the token, it has expired, or the subject's access was revoked since.
        """
        principal = await self._principals.verify(token)
        if self._changes.revoked(principal):
            raise Unauthenticated(
                f'the access of "{principal.subject}" was revoked by an admin; what acts for them ends',
                reason="CREDENTIAL_REJECTED",
            )
        return principal


def refuse_ambiguous(names: Iterable[str]) -> None:
    """Refuse a call whose headers say more than once who calls: what checked one of them may not have seen the other.

    `names` are those of all headers of the call.

    Raises:
        Unauthenticated: one of them came twice.
    """
    seen = set[str]()
    for name in names:
        if name in seen:
            raise Unauthenticated(f"send the header {name} once", reason="CREDENTIAL_REJECTED")
        if name in _IDENTIFYING:
            seen.add(name)


def inbound_credential(metadata: Mapping[str, str]) -> Credential:
    """Return what the caller sent.

    Raises:
        Unauthenticated: both credential headers came, so that it is unclear whose identity is meant.
    """
    credential = Credential(metadata.get(AUTHORIZATION, ""), metadata.get(FORWARDED_ACCESS_TOKEN, ""))
    if credential.authorization and credential.forwarded_access_token:
        raise Unauthenticated(
            f"send either {AUTHORIZATION} or {FORWARDED_ACCESS_TOKEN}, not both", reason="CREDENTIAL_REJECTED"
        )
    return credential
