"""The interface of identity verifiers, and the failures they share."""

from collections.abc import Mapping
from typing import Any, Protocol

from services.auth.domain import VerifiedIdentity
from services.common.errors import Unauthenticated
from services.common.identity.authenticator import Credential
from services.common.identity.principal_token import TOKEN_TYPE as PRINCIPAL_TOKEN_TYPE
from services.common.identity.service_identity import TOKEN_TYPE as SERVICE_TOKEN_TYPE


class IdentityVerifier(Protocol):
    """One way of proving an identity."""

    async def verify(self, credential: Credential) -> VerifiedIdentity:
        """Return whom a credential stands for.

        Raises:
            Unauthenticated: CREDENTIAL_MISSING, CREDENTIAL_REJECTED, CREDENTIAL_EXPIRED or PRINCIPAL_NOT_ACCEPTED.
            Unavailable: the issuer or workspace that could verify it does not answer.
        """
        ...


def bearer_token(credential: Credential) -> str:
    """Return the bare token of a credential.

    Raises:
        Unauthenticated: there is none, or its scheme is not Bearer.
    """
    if credential.forwarded_access_token:
        return credential.forwarded_access_token.strip()
    if not credential.authorization:
        raise Unauthenticated(
            "no credential came with the call; send authorization: Bearer <token>, or x-forwarded-access-token",
            reason="CREDENTIAL_MISSING",
        )
    scheme, _, token = credential.authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise rejected("the authorization header must be: Bearer <token>")
    return token.strip()


def is_own_token(header: Mapping[str, Any]) -> bool:
    """Return whether a header is of a token that Coxswain signs itself, which never proves a caller's identity."""
    return header.get("typ") in (PRINCIPAL_TOKEN_TYPE, SERVICE_TOKEN_TYPE)


def rejected(why: str) -> Unauthenticated:
    """Return the failure of a credential that was refused; `why` never contains any part of it."""
    return Unauthenticated(why, reason="CREDENTIAL_REJECTED")


def expired(why: str = "the credential has expired; send a fresh one") -> Unauthenticated:
    """Return the failure of a credential that is past its expiry."""
    return Unauthenticated(why, reason="CREDENTIAL_EXPIRED")


def not_accepted() -> Unauthenticated:
    """Return the failure of a token that Coxswain signed itself, sent as a caller's credential."""
    return Unauthenticated(
        "principal and service tokens are never accepted as a credential; send the one you signed in with",
        reason="PRINCIPAL_NOT_ACCEPTED",
    )
