"""The interface of the links of a chain."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from services.auth.domain import CredentialPurpose, LinkOutcome
from services.common.identity.principal import Principal


@dataclass(frozen=True, slots=True)
class CredentialRequest:
    """A request for a credential: by whom, for what, and where it will be sent."""

    principal: Principal
    purpose: CredentialPurpose
    destination: str = ""
    """An origin as `origin_of` writes it; empty asks for the origin the credential belongs to."""
    provider: str = ""
    """The LLM provider; empty for the other purposes."""
    secret_name: str = ""
    """The group's secret of a tool or of a database; empty for the other purposes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of asking one link."""

    outcome: LinkOutcome
    detail: str
    """The reason and how to change it, without any secret."""
    token: str = field(default="", repr=False)
    origin: str = ""
    expires_at: datetime | None = None
    """When the credential itself expires; None when it does not, or when that is not known."""
    on_behalf_of_user: bool = False
    elsewhere: bool = False
    """Whether it was rejected only because it belongs to another origin."""
    for_everybody: bool = False
    """Whether the detail says nothing of what the operator has, so that each member may read it."""

    @classmethod
    def absent(cls, detail: str, *, for_everybody: bool = False) -> "Answer":
        """Return that this link has no credential: the chain tries the next one."""
        return cls(LinkOutcome.ABSENT, detail, for_everybody=for_everybody)

    @classmethod
    def rejected(cls, detail: str) -> "Answer":
        """Return that the credential was refused: the chain ends."""
        return cls(LinkOutcome.REJECTED, detail)

    @classmethod
    def expired(cls, detail: str) -> "Answer":
        """Return that the credential has expired: the chain ends."""
        return cls(LinkOutcome.EXPIRED, detail)

    @classmethod
    def used(
        cls,
        detail: str,
        token: str,
        origin: str,
        *,
        expires_at: datetime | None = None,
        on_behalf_of_user: bool = False,
    ) -> "Answer":
        """Return a credential and the origin it may be sent to."""
        return cls(LinkOutcome.USED, detail, token, origin, expires_at, on_behalf_of_user)


class Link(Protocol):
    """One source of credentials."""

    @property
    def name(self) -> str:
        """Its name in explanations and errors."""
        ...

    async def ask(self, request: CredentialRequest) -> Answer:
        """Return what this link has for `request`.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, what it has cannot be opened.
            Unavailable: the issuer of its credential does not answer.
        """
        ...


def for_destination(answer: Answer, origins: tuple[str, ...], destination: str) -> Answer:
    """Return `answer` with the origin it may be sent to, out of those it belongs to, or its refusal.

    A credential that belongs to another origin ends the chain: the next link could have another owner's.
    """
    if not destination:
        chosen = origins[0]
    elif destination in origins:
        chosen = destination
    else:
        return Answer(
            LinkOutcome.REJECTED,
            f"belongs to {', '.join(origins)} and may not be sent to {destination}",
            elsewhere=True,
        )
    return Answer.used(
        answer.detail,
        answer.token,
        chosen,
        expires_at=answer.expires_at,
        on_behalf_of_user=answer.on_behalf_of_user,
    )
