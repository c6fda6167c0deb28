"""Remembers verified credentials for a short time, and refused ones for a shorter one."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from datetime import timedelta

from services.auth.domain import VerifiedIdentity
from services.auth.identity.verifier import IdentityVerifier
from services.common.clock import utc_now
from services.common.errors import Unauthenticated
from services.common.identity.authenticator import Credential

EXPIRY_MARGIN = timedelta(seconds=40)
"""Upstreams refuse tokens that are about to expire: ours count as expired this long before."""
_SIZE = 10_000


class CachedVerifier:
    """Asks a verifier once for all who wait, and keeps its answer.

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
        self._clock = clock
        self._verifier = verifier
        self._keep_seconds = keep_seconds
        self._refused_seconds = refused_seconds
        self._hash_key = secrets.token_bytes(32)
        self._answers: dict[bytes, tuple[float, VerifiedIdentity | Unauthenticated]] = {}
        self._asking: dict[bytes, asyncio.Task[VerifiedIdentity]] = {}

    async def verify(self, credential: Credential) -> VerifiedIdentity:
        """Return whom a credential stands for; see `IdentityVerifier`."""
        key = self._key(credential)
        kept = self._answers.get(key)
        if kept is not None and kept[0] > self._clock():
            if isinstance(kept[1], Unauthenticated):
                raise _again(kept[1])
            return kept[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(key, credential))
            asking.add_done_callback(lambda done: self._asked(key, done))
        # The answer serves everybody who waits for it: one of them being cancelled must not end it.
        return await asyncio.shield(asking)

    def _asked(self, key: bytes, done: asyncio.Task[VerifiedIdentity]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            # Marks it as seen: when all who waited have been cancelled, nobody else looks.
            done.exception()

    async def _ask(self, key: bytes, credential: Credential) -> VerifiedIdentity:
        try:
            identity = await self._verifier.verify(credential)
        except Unauthenticated as refusal:
            self._keep(key, self._refused_seconds, _again(refusal))
            raise
        left = (identity.expires_at - EXPIRY_MARGIN - utc_now()).total_seconds()
        self._keep(key, min(self._keep_seconds, left), identity)
        return identity

    def _keep(self, key: bytes, seconds: float, answer: VerifiedIdentity | Unauthenticated) -> None:
        now = self._clock()
        if seconds <= 0:
            return
        if len(self._answers) >= _SIZE:
            self._answers = {k: kept for k, kept in self._answers.items() if kept[0] > now}
            # Refused credentials cost a caller nothing to make up: they must not push the others' answers out for good.
            while len(self._answers) >= _SIZE:
                del self._answers[next(iter(self._answers))]
        self._answers[key] = (now + seconds, answer)

    def _key(self, credential: Credential) -> bytes:
        digest = hashlib.blake2b(key=self._hash_key, digest_size=32)
        for part in (credential.authorization, credential.forwarded_access_token):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.digest()


def _again(refusal: Unauthenticated) -> Unauthenticated:
    """Return a copy: one exception raised for many callers would collect the traceback of each."""
    return Unauthenticated(refusal.message, reason=refusal.reason, metadata=refusal.metadata)
