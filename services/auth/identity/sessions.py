"""Credential sessions: what auth keeps of a verified credential, the user's own token sealed, until it expires."""

from dataclasses import dataclass
from datetime import datetime

import jwt
from cachetools import LRUCache
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain import Session, VerifiedIdentity
from services.auth.identity.verifier import bearer_token
from services.auth.keys import bindings
from services.auth.keys.vault import Vault
from services.auth.repositories.access_changes import AccessChangeRepository
from services.auth.repositories.sessions import SessionRepository, read_session
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.authenticator import NO_CREDENTIAL, Credential
from services.common.identity.principal import CredentialKind
from services.common.ids import new_id
from services.common.quotas import quota_exceeded

_SIZE = 10_000


@dataclass(slots=True)
class _Known:
    session: "OpenSession"
    identity: VerifiedIdentity


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The session of a credential."""

    id: str
    since: datetime
    """Since when the credential is known here."""


class SessionStore:
    """Opens one session for each credential and finds it again."""

    def __init__(self, database: Database, vault: Vault, *, most: int) -> None:
        """`most` is how many sessions a subject may have at the same time."""
        self._database = database
        self._vault = vault
        self._most = most
        self._known: LRUCache[str, _Known] = LRUCache(_SIZE)

    async def open(self, credential: Credential, identity: VerifiedIdentity) -> OpenSession:
        """Return the credential's session, storing it when it is new or lasts much longer than was known.

        The token itself is kept, sealed, only when it is a user's own.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED, the subject has as many sessions as it may.
        """
        credential_hash = self._vault.hash(self._vault.sealing, "credential", _identifying(credential))
        known = self._known.get(credential_hash)
        if known is not None and _covers(known.identity, identity):
            return known.session
        session_id = new_id()
        async with self._database.write() as connection:
            sealed = None
            if identity.kind is CredentialKind.USER:
                binding = bindings.user_token(session_id)
                sealed = await self._vault.seal(connection, binding, bearer_token(credential).encode())
            session = Session(
                id=session_id,
                subject=identity.subject,
                kind=identity.kind,
                origin=identity.origin,
                expires_at=identity.expires_at,
                claimed_roles=identity.claimed_roles,
                sealed_token=sealed,
            )
            known_since = identity.known_since or utc_now()
            sessions = SessionRepository(connection)
            stored_id, since, has_token = await sessions.put(credential_hash, session, known_since)
            opened = OpenSession(stored_id, since)
            if stored_id == session_id:
                await self._check_count(sessions, identity.subject)
            if sealed is not None and not has_token and not await self._revoked_everywhere(connection, identity, since):
                # Sessions that tell of a revocation are kept without their token when they have expired.
                binding = bindings.user_token(stored_id)
                await sessions.keep_token(
                    stored_id, await self._vault.seal(connection, binding, bearer_token(credential).encode())
                )
        self._known[credential_hash] = _Known(opened, identity)
        return opened

    async def _check_count(self, sessions: SessionRepository, subject: str) -> None:
        """Refuse the session that has just been stored when it is one too many."""
        count, first_end = await sessions.of_subject(subject)
        if count > self._most:
            raise quota_exceeded(
                "sessions_per_subject",
                self._most,
                count - 1,
                f"you use {count - 1:,} credentials at the same time, which is as many as may "
                "(COXSWAIN_AUTH_SESSIONS_PER_SUBJECT); call with one that you have used before, or wait until one "
                "expires",
                retry_after=max(1.0, (first_end - utc_now()).total_seconds()),
            )

    async def _revoked_everywhere(
        self, connection: AsyncConnection, identity: VerifiedIdentity, since: datetime
    ) -> bool:
        revoked_at = await AccessChangeRepository(connection).revoked_at(identity.subject, "")
        return revoked_at is not None and since <= revoked_at

    async def get(self, session_id: str) -> Session | None:
        """Return a session that has not expired."""
        session = await read_session(self._database, session_id)
        return session if session is not None and session.expires_at > utc_now() else None

    def token(self, session: Session) -> str:
        """Return the user's own token; empty when the session keeps none.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, it cannot be opened with the keys at hand.
        """
        if session.sealed_token is None:
            return ""
        return self._vault.open(bindings.user_token(session.id), session.sealed_token).decode()

    async def clean(self) -> int:
        """Remove expired sessions and return how many."""
        async with self._database.write() as connection:
            return await SessionRepository(connection).delete_expired(utc_now())


def _identifying(credential: Credential) -> str:
    """Return what a verified credential has in common with every other way to send it."""
    if credential == NO_CREDENTIAL:
        return ""
    token = bearer_token(credential)
    try:
        jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        return token
    # Many spellings of a signature prove the same claims, which themselves cannot be written in another way.
    return token.rpartition(".")[0]


def _covers(known: VerifiedIdentity, identity: VerifiedIdentity) -> bool:
    """Return whether the stored session still holds: some credentials get a new expiry with each verification."""
    now = utc_now()
    return (
        known.subject == identity.subject
        and known.claimed_roles == identity.claimed_roles
        and known.expires_at - now > (identity.expires_at - now) / 2
    )
