"""Remembers verified credentials for a short time, and refused ones for a shorter one."""

import hashlib
import secrets
import time
from collections.abc import Callable
from datetime import timedelta

from services.auth.domain import VerifiedIdentity
from services.auth.identity.verifier import IdentityVerifier
from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.errors import Unauthenticated
from services.common.identity.authenticator import Credential

EXPIRY_MARGIN = timedelta(seconds=40)
"""Upstreams refuse tokens that are about to expire: ours count as expired this long before."""
_SIZE = 10_000


class CachedVerifier:
    """Asks a verifier once for all who wait, and keeps the result.

    Entries are keyed by a keyed hash: the cache holds no credential.
    """

    def __init__(
        self,
        verifier: IdentityVerifier,
        *,
        keep_seconds: float,
        refused_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = verifier
        self._hash_key = secrets.token_bytes(32)

        def seconds(identity: VerifiedIdentity) -> float:
            return min(keep_seconds, (identity.expires_at - EXPIRY_MARGIN - utc_now()).total_seconds())

        self._identities: AsyncCache[bytes, VerifiedIdentity] = AsyncCache(
            _SIZE, seconds, clock=clock, refused=Unauthenticated, refused_seconds=refused_seconds
        )

    async def verify(self, credential: Credential) -> VerifiedIdentity:
        """Return whom a credential stands for; see `IdentityVerifier`."""
        return await self._identities.get(self._key(credential), lambda: self._verifier.verify(credential))

    def _key(self, credential: Credential) -> bytes:
        digest = hashlib.blake2b(key=self._hash_key, digest_size=32)
        for part in (credential.authorization, credential.forwarded_access_token):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.digest()
