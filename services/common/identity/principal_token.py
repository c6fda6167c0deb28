"""Principal tokens: JSON web tokens (RFC 7519) signed with Ed25519 (RFC 8037) by auth alone."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.common.cache import ExpiringCache
from services.common.errors import CoxswainError, Unauthenticated
from services.common.identity.group_limits import GroupLimits
from services.common.identity.principal import CredentialKind, Principal, Role

logger = structlog.get_logger(__name__)

TOKEN_TYPE = "coxswain-principal+jwt"
ISSUER = "coxswain-auth"
_CACHE_SIZE = 10_000
_REFRESH_SECONDS = 300.0
_UNKNOWN_KEY_PAUSE_SECONDS = 2.0


def encode_principal(principal: Principal, private_key: Ed25519PrivateKey, kid: str) -> str:
    """Return the signed token of a principal."""
    claims = {
        "iss": ISSUER,
        "sub": principal.subject,
        "grp": principal.group_id,
        "rol": int(principal.role),
        "pad": principal.platform_admin,
        "knd": int(principal.credential_kind),
        "sid": principal.session_id,
        "exe": principal.execution_id,
        # In milliseconds: what was issued in the second in which access was revoked is told apart.
        "iat": principal.issued_at or round(time.time(), 3),
        "exp": int(principal.expires_at.timestamp()),
        "lim": principal.limits.to_claim(),
    }
    return jwt.encode(claims, private_key, algorithm="EdDSA", headers={"typ": TOKEN_TYPE, "kid": kid})


class KeySource(Protocol):
    """Where the public keys of auth come from."""

    async def public_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Return every key that is, was or is about to be in use, by key id."""
        ...


class PrincipalVerifier:
    """Verifies principal tokens locally and remembers those it verified until they expire.

    Keys are read again every few minutes, and once, bounded, when a token names a key that is not known yet. Known ones
    outlive an outage of auth.
    """

    def __init__(self, keys: KeySource, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = keys
        self._clock = clock
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        self._keys_read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._verified = ExpiringCache[str, Principal](_CACHE_SIZE)

    async def verify(self, token: str) -> Principal:
        """Return the principal a token stands for.

        Raises:
            Unauthenticated: the token is not one of auth's, or has expired.
            CoxswainError: its key is not known, and auth cannot be asked.
        """
        known = self._verified.get(token)
        if known is not None:
            return known
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise _rejected() from error
        kid = header.get("kid")
        if header.get("typ") != TOKEN_TYPE or not isinstance(kid, str):
            raise _rejected()
        key = await self._key(kid)
        if key is None:
            raise _rejected()
        try:
            claims = jwt.decode(
                token, key, algorithms=["EdDSA"], issuer=ISSUER, options={"require": ["exp", "iat", "sub", "iss"]}
            )
            principal = Principal(
                subject=claims["sub"],
                group_id=claims["grp"],
                role=Role(claims["rol"]),
                platform_admin=bool(claims["pad"]),
                credential_kind=CredentialKind(claims["knd"]),
                session_id=claims["sid"],
                execution_id=claims["exe"],
                expires_at=datetime.fromtimestamp(claims["exp"], UTC),
                issued_at=float(claims["iat"]),
                token=token,
                # A token of the release before has none.
                limits=GroupLimits.from_claim(claims.get("lim", {})),
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("the principal has expired", reason="CREDENTIAL_EXPIRED") from error
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _rejected() from error
        self._verified.put(token, principal, claims["exp"])
        return principal

    async def _key(self, kid: str) -> Ed25519PublicKey | None:
        age, is_known = self._clock() - self._keys_read_at, kid in self._keys
        # One call refreshes the keys; no other waits for what it knows.
        is_due = age > _REFRESH_SECONDS and not self._reading.locked()
        if is_due if is_known else age > _UNKNOWN_KEY_PAUSE_SECONDS:
            async with self._reading:
                if self._clock() - self._keys_read_at >= age:
                    await self._read(needed=not is_known)
        return self._keys.get(kid)

    async def _read(self, *, needed: bool) -> None:
        try:
            self._keys = await self._source.public_keys()
        except CoxswainError as error:
            if needed:
                raise
            logger.warning("principal_keys_not_read", reason=error.reason)
            return
        self._keys_read_at = self._clock()


def _rejected() -> Unauthenticated:
    return Unauthenticated("the principal token is not valid", reason="CREDENTIAL_REJECTED")
