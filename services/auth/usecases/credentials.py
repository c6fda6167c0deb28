"""The outbound credential of a principal, for one purpose and one destination."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from prometheus_client import Counter

from services.auth.chains import names
from services.auth.chains.chain import Chain, Step
from services.auth.chains.link import Answer, CredentialRequest
from services.auth.domain import (
    CredentialExplanation,
    CredentialPurpose,
    CredentialReference,
    LinkExplanation,
    LinkOutcome,
    ResolvedCredential,
)
from services.auth.identity.cache import EXPIRY_MARGIN
from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.counts import from_the_start
from services.common.egress import credential_origin_of, origin_of
from services.common.errors import (
    CoxswainError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from services.common.identity.principal import CredentialKind, Principal, Role

DATABRICKS_PROVIDER = "databricks"
_ASKED = Counter(
    "coxswain_credentials_total",
    "Links of chains that were asked for a credential, by chain, link and outcome.",
    ("chain", "link", "outcome"),
)
_OUTCOMES = sorted(set(LinkOutcome) - {LinkOutcome.NOT_REACHED})
_SIZE = 10_000
_EXPLAIN_SECONDS = 0.5
_OPERATORS_LINKS = frozenset({"environment", "sdk_default"})
"""Links with the operator's own credentials."""
_HIDDEN = "an admin of the group sees why"
_FOR_ONE_ORIGIN = frozenset({CredentialPurpose.TOOL, CredentialPurpose.TOOL_CALLER})
_SECRETS_OF = {CredentialPurpose.TOOL: "tools/", CredentialPurpose.POSTGRESQL: "postgresql/"}
_Key = tuple[str, str, CredentialKind, str, CredentialReference]


class Credentials:
    """Resolves credentials through the chains and remembers them for a short time."""

    def __init__(self, chains: Mapping[CredentialPurpose, Chain], *, keep: timedelta) -> None:
        self._chains = chains
        for purpose, chain in chains.items():
            from_the_start(_ASKED, [purpose], chain.links, _OUTCOMES)
        self._keep = keep
        self._resolved: AsyncCache[_Key, ResolvedCredential] = AsyncCache(
            _SIZE, lambda credential: (credential.expires_at - utc_now()).total_seconds(), clock=time.time
        )

    async def resolve(self, principal: Principal, reference: CredentialReference) -> ResolvedCredential:
        """Return the credential and the only origin it may be sent to.

        Raises:
            InvalidArgument: the destination is not an origin, or what the purpose needs besides is missing.
            FailedPrecondition: CREDENTIAL_NOT_CONFIGURED, no link has one, or one of the operator's is of no use to a
                caller who is no admin; KEY_UNAVAILABLE, it cannot be opened.
            Unauthenticated: CREDENTIAL_REJECTED or CREDENTIAL_EXPIRED with the link's name.
            PermissionDenied: DESTINATION_NOT_ALLOWED, it belongs to another origin.
            Unavailable: its issuer does not answer.
        """
        # Everything the result depends on: callers share an entry, or a load, only when they would get the same result.
        key = (
            principal.subject,
            principal.group_id,
            principal.credential_kind,
            principal.session_id,
            reference,
        )
        return await self._resolved.get(key, lambda: self._resolve(_request(principal, reference)))

    async def _resolve(self, request: CredentialRequest) -> ResolvedCredential:
        chain = self._chains[request.purpose]
        steps: list[Step] = []
        try:
            async for step in chain.ask(request):
                steps.append(step)
                _ASKED.labels(request.purpose, step.link, step.answer.outcome).inc()
        except CoxswainError:
            _ASKED.labels(request.purpose, chain.links[len(steps)], LinkOutcome.UNAVAILABLE).inc()
            raise
        return self._credential(steps, request, chain.links)

    def _credential(
        self, steps: Sequence[Step], request: CredentialRequest, links: tuple[str, ...]
    ) -> ResolvedCredential:
        link, answer = steps[-1].link, steps[-1].answer
        if answer.outcome is LinkOutcome.USED:
            return ResolvedCredential(
                token=answer.token,
                origin=answer.origin,
                link=link,
                expires_at=self._expiry(answer.expires_at),
                on_behalf_of_user=answer.on_behalf_of_user,
            )
        if answer.outcome is LinkOutcome.ABSENT or _is_hidden(steps[-1], request.principal):
            # Of the operator's environment no more is told than that it is of no use: not that it has a key for another
            # address, or one that is refused, nor by what is missing here that the chain ended.
            details = [f"{step.link}: {_detail(step, request.principal)}" for step in steps]
            details += [f"{name}: {_HIDDEN}" for name in links[len(steps) :]]
            raise FailedPrecondition(
                f"no credential for {request.provider or request.secret_name or request.purpose}: "
                + "; ".join(details),
                reason="CREDENTIAL_NOT_CONFIGURED",
                metadata={"purpose": request.purpose, "links": ",".join(links)},
            )
        if answer.elsewhere:
            raise PermissionDenied(
                f"{link}: the credential {_detail(steps[-1], request.principal)}",
                reason="DESTINATION_NOT_ALLOWED",
                metadata={"origin": request.destination, "link": link},
            )
        reason = "CREDENTIAL_EXPIRED" if answer.outcome is LinkOutcome.EXPIRED else "CREDENTIAL_REJECTED"
        detail = _detail(steps[-1], request.principal)
        raise Unauthenticated(f"{link}: {detail}", reason=reason, metadata={"link": link})

    def _expiry(self, expires_at: datetime | None) -> datetime:
        latest = utc_now() + self._keep
        return latest if expires_at is None else min(latest, expires_at - EXPIRY_MARGIN)

    async def explain(self, principal: Principal, reference: CredentialReference) -> CredentialExplanation:
        """Return the result of each link, as far as the principal may know it.

        Raises:
            InvalidArgument: the destination is not an origin, or what the purpose needs besides is missing.
        """
        explanation = await self._explain(_request(principal, reference))
        return CredentialExplanation(_shown_to(principal, explanation.links), explanation.origin)

    async def explain_all(
        self, principal: Principal, references: Sequence[CredentialReference]
    ) -> list[CredentialExplanation]:
        """Return an explanation for each reference, in that order; what takes too long has no links.

        It is for services, which call with the credential: they are told the outcome of every link.

        Raises:
            InvalidArgument: as `explain`.
        """
        requests = [_request(principal, reference) for reference in references]
        asking = [asyncio.create_task(self._explain(request)) for request in requests]
        try:
            await asyncio.wait(asking, timeout=_EXPLAIN_SECONDS)
            return [each.result() if each.done() else CredentialExplanation() for each in asking]
        finally:
            for each in asking:
                each.cancel()

    async def _explain(self, request: CredentialRequest) -> CredentialExplanation:
        principal = request.principal
        chain = self._chains[request.purpose]
        explained: list[LinkExplanation] = []
        origin: str | None = None
        try:
            async for step in chain.ask(request):
                explained.append(_explained(step, principal))
                if step.answer.outcome is LinkOutcome.USED:
                    origin = "" if _is_hidden(step, principal) else step.answer.origin
        except CoxswainError as error:
            outcome = LinkOutcome.UNAVAILABLE if isinstance(error, Unavailable) else LinkOutcome.REJECTED
            failed = Step(chain.links[len(explained)], Answer(outcome, error.message))
            explained.append(_explained(failed, principal))
        for link in chain.links[len(explained) :]:
            explained.append(LinkExplanation(link, LinkOutcome.NOT_REACHED, "the chain ended before this link"))
        return CredentialExplanation(tuple(explained), origin)

    def forget(self, group_id: str) -> None:
        """Resolve everything of a group anew: one of its secrets has changed."""
        self._resolved.forget_where(lambda key: key[1] == group_id)

    async def close(self) -> None:
        """End what is being resolved."""
        await self._resolved.close()


def _explained(step: Step, principal: Principal) -> LinkExplanation:
    return LinkExplanation(step.link, step.answer.outcome, _detail(step, principal))


def _shown_to(principal: Principal, links: Sequence[LinkExplanation]) -> tuple[LinkExplanation, ...]:
    """Return what a caller may know of links: of the operator's, only whether the group is served by them.

    What else there is, such as a key for another address, tells which variables the operator has set. So does that a
    later link was not reached.
    """
    if _sees_operators(principal):
        return tuple(links)
    shown: list[LinkExplanation] = []
    end: str | None = None
    for link in links:
        detail = None
        if link.link in _OPERATORS_LINKS and link.outcome is not LinkOutcome.USED:
            detail = end if link.outcome is LinkOutcome.NOT_REACHED else link.detail
            end = detail if link.outcome is not LinkOutcome.ABSENT else None
        shown.append(link if detail is None else LinkExplanation(link.link, LinkOutcome.ABSENT, detail))
    return tuple(shown)


def _sees_operators(principal: Principal) -> bool:
    return principal.role >= Role.ADMIN or principal.platform_admin


def _detail(step: Step, principal: Principal) -> str:
    return _HIDDEN if _is_hidden(step, principal) else step.answer.detail


def _is_hidden(step: Step, principal: Principal) -> bool:
    """Whether a step is about the operator's environment, which is told to those who can do something about it."""
    theirs = step.link in _OPERATORS_LINKS and not step.answer.for_everybody
    return theirs and not _sees_operators(principal)


def _check_secret_name(purpose: CredentialPurpose, secret_name: str) -> None:
    """Keep passwords of databases from tools, and the secrets of tools from databases."""
    prefix = _SECRETS_OF.get(purpose, "")
    if not secret_name.startswith(prefix):
        raise InvalidArgument.field("secret_name", f"must begin with {prefix} for this purpose")


def _request(principal: Principal, reference: CredentialReference) -> CredentialRequest:
    purpose, destination = reference.purpose, reference.destination
    provider, secret_name = reference.provider, reference.secret_name
    if purpose is CredentialPurpose.LLM_PROVIDER and not provider:
        raise InvalidArgument.field("provider", "must name the provider whose key is requested; example: openai")
    if purpose is CredentialPurpose.TOOL and not secret_name:
        raise InvalidArgument.field("secret_name", "must name the secret that is requested; example: tools/billing")
    if purpose in _FOR_ONE_ORIGIN and not destination:
        raise InvalidArgument.field(
            "destination_origin",
            "must be given for tools: what they send goes to one origin; example: https://example.com",
        )
    is_database = purpose is CredentialPurpose.POSTGRESQL
    read_origin = credential_origin_of if is_database else origin_of
    origin = read_origin(destination) if destination else ""
    if origin is None or (destination and "://" not in destination):
        example = "postgresql://db.example.com:5432" if is_database else "https://example.com:8443"
        raise InvalidArgument.field(
            "destination_origin", f"must be an origin: scheme, host and port; example: {example}"
        )
    if purpose is not CredentialPurpose.LLM_PROVIDER:
        provider = ""
    elif provider == DATABRICKS_PROVIDER:
        # Models that a workspace serves are called with the credential the caller has there, their own token first.
        purpose = CredentialPurpose.DATABRICKS
    if is_database:
        secret_name = secret_name or names.POSTGRESQL_PASSWORD
    elif purpose is not CredentialPurpose.TOOL:
        secret_name = ""
    _check_secret_name(purpose, secret_name)
    return CredentialRequest(principal, purpose, origin, provider, secret_name)
