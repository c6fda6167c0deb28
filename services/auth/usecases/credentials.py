"""The outbound credential of a principal, for one purpose and one place."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from services.auth.chains.chain import Chain, Step
from services.auth.chains.link import Wanted
from services.auth.domain import CredentialPurpose, LinkExplanation, LinkOutcome, OutboundCredential
from services.auth.identity.cache import EXPIRY_MARGIN
from services.common.clock import utc_now
from services.common.egress import origin_of
from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
)
from services.common.identity.principal import CredentialKind, Principal

DATABRICKS_PROVIDER = "databricks"
_SIZE = 10_000
_Key = tuple[str, str, CredentialKind, str, CredentialPurpose, str, str]


class Credentials:
    """Resolves credentials through the chains and remembers them for a short time."""

    def __init__(self, chains: Mapping[CredentialPurpose, Chain], *, keep: timedelta) -> None:
        self._chains = chains
        self._keep = keep
        self._resolved: dict[_Key, OutboundCredential] = {}

    async def resolve(
        self, principal: Principal, purpose: CredentialPurpose, destination: str, provider: str
    ) -> OutboundCredential:
        """Return the credential and the only origin it may be sent to.

        Raises:
            InvalidArgument: the destination is no origin, or the provider is missing.
            FailedPrecondition: CREDENTIAL_NOT_CONFIGURED, no link has one; KEY_UNAVAILABLE, it cannot be opened.
            Unauthenticated: CREDENTIAL_REJECTED or CREDENTIAL_EXPIRED with the link's name.
            PermissionDenied: DESTINATION_NOT_ALLOWED, it belongs elsewhere.
            Unavailable: whoever issues it does not answer.
        """
        # Everything an answer depends on: two callers share one only where they would get the same.
        key = (
            principal.subject,
            principal.group_id,
            principal.credential_kind,
            principal.session_id,
            purpose,
            destination,
            provider,
        )
        kept = self._resolved.get(key)
        if kept is not None and kept.expires_at > utc_now():
            return kept
        wanted = _wanted(principal, purpose, destination, provider)
        chain = self._chains[wanted.purpose]
        steps = [step async for step in chain.ask(wanted)]
        credential = self._credential(steps, wanted, chain.links)
        if len(self._resolved) >= _SIZE:
            self._resolved.clear()
        self._resolved[key] = credential
        return credential

    def _credential(self, steps: Sequence[Step], wanted: Wanted, links: tuple[str, ...]) -> OutboundCredential:
        link, answer = steps[-1].link, steps[-1].answer
        if answer.outcome is LinkOutcome.USED:
            return OutboundCredential(
                token=answer.token,
                origin=answer.origin,
                link=link,
                expires_at=self._expiry(answer.expires_at),
                on_behalf_of_user=answer.on_behalf_of_user,
            )
        if answer.elsewhere:
            raise PermissionDenied(
                f"{link}: the credential {answer.detail}",
                reason="DESTINATION_NOT_ALLOWED",
                metadata={"origin": wanted.destination, "link": link},
            )
        if answer.outcome is LinkOutcome.ABSENT:
            raise FailedPrecondition(
                f"no credential for {wanted.provider or wanted.purpose.name}: "
                + "; ".join(f"{step.link}: {step.answer.detail}" for step in steps),
                reason="CREDENTIAL_NOT_CONFIGURED",
                metadata={"purpose": wanted.purpose.name, "links": ",".join(links)},
            )
        reason = "CREDENTIAL_EXPIRED" if answer.outcome is LinkOutcome.EXPIRED else "CREDENTIAL_REJECTED"
        raise Unauthenticated(f"{link}: {answer.detail}", reason=reason, metadata={"link": link})

    def _expiry(self, expires_at: datetime | None) -> datetime:
        latest = utc_now() + self._keep
        return latest if expires_at is None else min(latest, expires_at - EXPIRY_MARGIN)

    async def explain(
        self, principal: Principal, purpose: CredentialPurpose, destination: str, provider: str
    ) -> tuple[list[LinkExplanation], str | None]:
        """Return what each link says, in order, and the origin the credential belongs to, None when there is none.

        Raises:
            InvalidArgument: the destination is no origin, or the provider is missing.
        """
        wanted = _wanted(principal, purpose, destination, provider)
        chain = self._chains[wanted.purpose]
        told: list[LinkExplanation] = []
        origin: str | None = None
        try:
            async for step in chain.ask(wanted):
                told.append(LinkExplanation(step.link, step.answer.outcome, step.answer.detail))
                if step.answer.outcome is LinkOutcome.USED:
                    origin = step.answer.origin
        except CoxswainError as error:
            told.append(LinkExplanation(chain.links[len(told)], LinkOutcome.REJECTED, error.message))
        for link in chain.links[len(told) :]:
            told.append(LinkExplanation(link, LinkOutcome.NOT_REACHED, "the chain ended before this link"))
        return told, origin

    def forget(self, group_id: str) -> None:
        """Ask again for everything of a group: one of its secrets has changed."""
        self._resolved = {key: kept for key, kept in self._resolved.items() if key[1] != group_id}


def _wanted(principal: Principal, purpose: CredentialPurpose, destination: str, provider: str) -> Wanted:
    if purpose is CredentialPurpose.LLM_PROVIDER and not provider:
        raise InvalidArgument.field("provider", "name the provider whose key is wanted; example: openai")
    origin = origin_of(destination) if destination else ""
    if origin is None or (destination and "://" not in destination):
        raise InvalidArgument.field("destination_origin", "not an origin; example: https://example.com:8443")
    if purpose is not CredentialPurpose.LLM_PROVIDER:
        provider = ""
    elif provider == DATABRICKS_PROVIDER:
        # Models that a workspace serves are called with whatever the caller may use there, their own token first.
        purpose = CredentialPurpose.DATABRICKS
    return Wanted(principal, purpose, origin, provider)
