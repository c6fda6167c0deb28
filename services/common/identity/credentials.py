"""Credentials for outbound calls: auth gives them for one destination."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import grpc
from prometheus_client import Counter

from coxswain.auth.v1 import auth_service_pb2_grpc, credential_pb2
from services.common.cache import AsyncCache
from services.common.counts import from_the_start
from services.common.errors import CoxswainError, PermissionDenied
from services.common.grpc.call import current_principal, outlast_caller
from services.common.grpc.status import from_rpc_error

_CACHE_SIZE = 10_000
_EXPLAINED_AT_ONCE = 100
_KEYLESS_SECONDS = 5.0
# One and the same for everybody: of an operator's key that may not be sent there, only admins are told that it exists.
_OPERATORS_KEYLESS_REASONS = frozenset({"CREDENTIAL_REJECTED", "DESTINATION_NOT_ALLOWED"})
_KEYLESS_OUTCOMES = frozenset({credential_pb2.LINK_OUTCOME_ABSENT, credential_pb2.LINK_OUTCOME_NOT_REACHED})
_OPERATORS_LINKS = frozenset({"environment", "sdk_default"})
_NO_LINK = "none"
_LINKS = ("user_token", "oauth_client", "stored_secret", *sorted(_OPERATORS_LINKS), _NO_LINK)
_REFUSED = Counter(
    "coxswain_credentials_refused_total",
    "Credentials that their destinations refused, by auth's chain and the link of it that had them.",
    ("chain", "link"),
)
_Key = tuple[str, str, str, str, str, str]


@dataclass(slots=True)
class OutboundCredential:
    """A secret and whose it is. An empty token means that the destination is called without one."""

    token: str = field(repr=False)
    on_behalf_of_user: bool = False
    from_cache: bool = False
    """Whether it may have been replaced since."""
    is_operators: bool = False
    """Whether it is one of the installation's that groups share, and not the group's or the user's own."""


class CredentialAvailability(Enum):
    """Whether a caller has a credential for a destination."""

    NOT_NEEDED = "not_needed"
    """It is called without one, and none is configured that may be sent there."""
    AVAILABLE = "available"
    MISSING = "missing"
    """None is configured, or what is configured cannot be used there."""
    UNKNOWN = "unknown"
    """Auth did not say in time."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where calls go, and whose credential they carry."""

    origin: str
    """Empty means wherever the credential belongs."""
    provider: str
    """Auth's name of the provider."""


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


@dataclass(frozen=True, slots=True)
class _Resolved:
    """What auth answered; one that has expired is not kept. An empty token: it had none to give."""

    token: str = field(repr=False)
    on_behalf_of_user: bool
    expires_at: float
    link: str = _NO_LINK
    """The link of auth's chain that had it."""


class AuthCredentials:
    """Asks auth, and remembers the answer as long as auth allows, for the same group, subject and session only."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        purpose: credential_pb2.CredentialPurpose.ValueType,
        keyless_origins: frozenset[str] = frozenset(),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keyless_origins` are called without a credential where none is configured that may be sent there.

        That there is none is remembered for a few seconds, by `clock`: a key stored later is used soon.
        """
        self._stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._purpose = purpose
        self._chain = credential_pb2.CredentialPurpose.Name(purpose).removeprefix("CREDENTIAL_PURPOSE_")
        from_the_start(_REFUSED, [self._chain], _LINKS)
        self._keyless_origins = keyless_origins
        self._resolved = AsyncCache[_Key, _Resolved](
            _CACHE_SIZE, lambda found: found.expires_at - time.time(), clock=clock
        )

    async def resolve(self, origin: str, provider: str = "", secret_name: str = "") -> OutboundCredential:
        """Return the calling principal's credential; see `CredentialSource`.

        `secret_name` names the group's secret where a purpose has many.
        """
        key = _cache_key(origin, provider, secret_name)
        known = self._resolved.peek(key)
        found = known or await self._resolved.get(key, lambda: self._ask(origin, provider, secret_name))
        is_operators = found.link in _OPERATORS_LINKS
        return OutboundCredential(found.token, found.on_behalf_of_user, known is not None, is_operators)

    async def _ask(self, origin: str, provider: str, secret_name: str) -> "_Resolved":
        outlast_caller()
        request = credential_pb2.ResolveCredentialRequest(
            purpose=self._purpose, provider=provider, destination_origin=origin, secret_name=secret_name
        )
        try:
            response = await self._stub.ResolveCredential(request)
        except grpc.RpcError as error:
            failure = from_rpc_error(error, "auth")
            if origin in self._keyless_origins and _none_may_be_sent(failure):
                return _Resolved("", on_behalf_of_user=False, expires_at=time.time() + _KEYLESS_SECONDS)
            raise failure from error
        if origin and response.origin != origin:
            raise PermissionDenied(
                f"the credential{f' for {provider}' if provider else ''} belongs to another address than {origin}",
                reason="DESTINATION_NOT_ALLOWED",
                metadata={"origin": origin},
            )
        expires_at = response.expire_time.ToNanoseconds() / 1e9
        return _Resolved(response.token, response.on_behalf_of_user, expires_at, response.link)

    async def availability(
        self, destinations: Collection[Destination], seconds: float
    ) -> dict[Destination, CredentialAvailability]:
        """Return of each destination whether `resolve` would succeed; the credentials themselves stay where they are.

        Auth is asked once for all that is not known here. What it does not say within `seconds` is UNKNOWN.
        """
        found = {place: self._known_availability(place) for place in destinations}
        asked = [place for place, availability in found.items() if availability is CredentialAvailability.UNKNOWN]
        portions = [asked[first : first + _EXPLAINED_AT_ONCE] for first in range(0, len(asked), _EXPLAINED_AT_ONCE)]
        for explained in await asyncio.gather(*(self._explain(portion, seconds) for portion in portions)):
            found.update(explained)
        return found

    def _known_availability(self, place: Destination) -> CredentialAvailability:
        known = self._resolved.peek(_cache_key(place.origin, place.provider))
        if known is None:
            return CredentialAvailability.UNKNOWN
        return CredentialAvailability.AVAILABLE if known.token else CredentialAvailability.NOT_NEEDED

    async def _explain(
        self, places: Sequence[Destination], seconds: float
    ) -> dict[Destination, CredentialAvailability]:
        """Return what auth says of some destinations: nothing where it cannot be asked."""
        questions = [
            credential_pb2.ExplainCredentialRequest(
                purpose=self._purpose, provider=place.provider, destination_origin=place.origin
            )
            for place in places
        ]
        request = credential_pb2.ExplainCredentialsRequest(credentials=questions)
        try:
            async with asyncio.timeout(seconds):
                response = await self._stub.ExplainCredentials(request)
        except (TimeoutError, grpc.RpcError, CoxswainError):
            return {}
        pairs = zip(places, response.explanations, strict=True)
        return {place: self._availability(place, explanation) for place, explanation in pairs}

    def _availability(
        self, place: Destination, explanation: credential_pb2.ExplainCredentialResponse
    ) -> CredentialAvailability:
        if explanation.resolvable:
            return CredentialAvailability.AVAILABLE
        outcomes = {link.outcome for link in explanation.links}
        if not outcomes or credential_pb2.LINK_OUTCOME_UNAVAILABLE in outcomes:
            return CredentialAvailability.UNKNOWN
        none_may_be_sent = all(
            link.outcome in _KEYLESS_OUTCOMES
            or (link.outcome == credential_pb2.LINK_OUTCOME_REJECTED and link.link in _OPERATORS_LINKS)
            for link in explanation.links
        )
        keyless = place.origin in self._keyless_origins and none_may_be_sent
        return CredentialAvailability.NOT_NEEDED if keyless else CredentialAvailability.MISSING

    def forget(self, origin: str, provider: str = "", secret_name: str = "") -> None:
        """See `CredentialSource`."""
        key = _cache_key(origin, provider, secret_name)
        refused = self._resolved.peek(key)
        if refused is not None:
            _REFUSED.labels(self._chain, refused.link).inc()
        self._resolved.forget(key)


def _none_may_be_sent(failure: CoxswainError) -> bool:
    if failure.reason in _OPERATORS_KEYLESS_REASONS:
        return failure.metadata.get("link") in _OPERATORS_LINKS
    return failure.reason == "CREDENTIAL_NOT_CONFIGURED"


def _cache_key(origin: str, provider: str, secret_name: str = "") -> _Key:
    principal = current_principal()
    return (principal.group_id, principal.subject, principal.session_id, provider, origin, secret_name)
