"""JSON web tokens (RFC 7519) of configured issuers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt

from services.auth.domain import VerifiedIdentity
from services.auth.identity.jwks import KeySet
from services.auth.identity.verifier import bearer_token, expired, is_own_token, not_accepted, rejected
from services.common.clock import utc_now
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind, Role

MAX_TOKEN_BYTES = 16 * 1024
_MAX_SUBJECT = 512
_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class Trust:
    """The requirements on an issuer's tokens."""

    keys: KeySet
    algorithms: frozenset[str]
    audiences: frozenset[str]
    """One of them must be in `aud`; empty requires none."""
    client_ids: frozenset[str]
    """`client_id` or `azp` must be one of them; empty requires none."""
    kind: CredentialKind
    origin: str = ""
    """Where a user's own token may be sent to."""
    subject_claim: str = "sub"
    groups_claim: str = ""
    """The claim that lists names of groups; empty takes none from tokens."""
    groups: Mapping[str, tuple[str, Role]] | None = None
    """Group and role by name in that claim."""
    leeway_seconds: float = 0


class JwtVerifier:
    """Verifies tokens of the issuers that are trusted."""

    def __init__(self, trusts: Collection[Trust]) -> None:
        self._trusts = {trust.keys.issuer: trust for trust in trusts}

    async def verify(self, credential: Credential) -> VerifiedIdentity:
        """Return whom a token stands for; see `IdentityVerifier`."""
        return await self.verify_token(bearer_token(credential))

    async def verify_token(self, token: str) -> VerifiedIdentity:
        """Return whom a bare token stands for; raises as `verify`."""
        if len(token.encode("utf-8", "surrogatepass")) > MAX_TOKEN_BYTES:
            raise rejected(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        header, unverified = _read(token)
        trust = self._trust(unverified.get("iss"))
        issuer = trust.keys.issuer
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in trust.algorithms:
            raise rejected(f"tokens of {issuer} must be signed with one of: {', '.join(sorted(trust.algorithms))}")
        if not isinstance(kid, str):
            raise rejected("the token does not name the key it was signed with")
        key = await trust.keys.key(kid)
        # The key says what it is for: an algorithm of another kind of key is never tried with it.
        if key is None or key.algorithm_name != algorithm:
            raise rejected(f"{issuer} does not publish the key that the token names")
        return _identity(trust, _claims(token, key, trust))

    def _trust(self, issuer: Any) -> Trust:
        trust = self._trusts.get(issuer) if isinstance(issuer, str) else None
        if trust is None:
            raise rejected("the token's issuer is not one this installation trusts")
        return trust


def looks_like_jwt(token: str) -> bool:
    """Return whether a token has three parts of which the first is a header."""
    try:
        jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError):
        return False
    return True


def _read(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims, unverified."""
    try:
        header = jwt.get_unverified_header(token)
        if is_own_token(header):
            raise not_accepted()
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise rejected("the token is not a valid JSON web token") from None
    return header, claims


def _claims(token: str, key: jwt.PyJWK, trust: Trust) -> Mapping[str, Any]:
    try:
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=trust.keys.issuer,
            audience=sorted(trust.audiences) if trust.audiences else None,
            leeway=trust.leeway_seconds,
            options={"require": ["exp", "iss", trust.subject_claim], "verify_aud": bool(trust.audiences)},
        )
    except jwt.ExpiredSignatureError:
        raise expired() from None
    except jwt.InvalidAudienceError:
        raise rejected("the token was made for another audience") from None
    except (jwt.ImmatureSignatureError, jwt.InvalidIssuedAtError):
        raise rejected("the token is not valid yet; compare the clocks of its issuer and of this machine") from None
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
        raise rejected("the token's signature or its claims are not valid") from None
    if trust.client_ids and not trust.client_ids.intersection(_texts(claims, "client_id", "azp")):
        raise rejected("the token was issued to a client that is not allowed")
    return claims


def _identity(trust: Trust, claims: Mapping[str, Any]) -> VerifiedIdentity:
    subject = claims[trust.subject_claim]
    if not isinstance(subject, str) or not subject or not subject.isprintable():
        raise rejected(f'the token\'s claim "{trust.subject_claim}" must be a printable text')
    joined = f"{trust.keys.issuer}{_SEPARATOR}{subject}"
    if len(joined) > _MAX_SUBJECT:
        raise rejected(f"issuer and subject are longer than {_MAX_SUBJECT} characters")
    try:
        expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
    except (ValueError, OverflowError, OSError):
        raise rejected("the token's expiry is not a valid time") from None
    # The leeway is for clocks that are behind; an expired token is never accepted.
    if expires_at <= utc_now():
        raise expired()
    return VerifiedIdentity(
        subject=joined,
        issued_at=_issued_at(claims),
        kind=trust.kind,
        expires_at=expires_at,
        claimed_roles=_roles(trust, claims),
        origin=trust.origin,
    )


def _issued_at(claims: Mapping[str, Any]) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(claims["iat"]), UTC)
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return None


def _roles(trust: Trust, claims: Mapping[str, Any]) -> dict[str, Role]:
    """Return the groups a token's claim is mapped to; of two names for one group the greater role counts."""
    roles: dict[str, Role] = {}
    if not trust.groups_claim or not trust.groups:
        return roles
    listed = claims.get(trust.groups_claim)
    for name in listed if isinstance(listed, list) else [listed]:
        if isinstance(name, str) and name in trust.groups:
            group_id, role = trust.groups[name]
            roles[group_id] = max(role, roles.get(group_id, role))
    return roles


def _texts(claims: Mapping[str, Any], *names: str) -> set[str]:
    return {value for name in names if isinstance(value := claims.get(name), str)}
