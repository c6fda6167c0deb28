"""Tokens that groups make for machines: accepted beside the credentials of the identity mode."""

import hashlib
import secrets

from services.auth.domain import TOKEN_ISSUER, VerifiedIdentity
from services.auth.identity.verifier import IdentityVerifier, bearer_token, expired, rejected
from services.auth.repositories.service_tokens import ServiceTokenRepository, read_service_token
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind

PREFIX = "coxt_"
"""By which logs, scanners for secrets and this service know a token."""
_BYTES = 32


def new_token() -> tuple[str, str]:
    """Return a token of 256 random bits, and the hash it is kept by."""
    token = PREFIX + secrets.token_urlsafe(_BYTES)
    return token, _hash(token)


def subject_of(group_id: str, name: str) -> str:
    """Return the subject that calls with a token have."""
    return f"{TOKEN_ISSUER}|{group_id}/{name}"


def token_of(subject: str) -> tuple[str, str] | None:
    """Return the group and the name of the token that calls as a subject; None: it is no token."""
    issuer, _, named = subject.partition("|")
    group_id, _, name = named.rpartition("/")
    return (group_id, name) if issuer == TOKEN_ISSUER else None


class ServiceTokenVerifier:
    """Knows tokens of groups, and leaves all other credentials to the verifier of the mode."""

    def __init__(self, database: Database, others: IdentityVerifier) -> None:
        self._database = database
        self._others = others

    async def verify(self, credential: Credential) -> VerifiedIdentity:
        """Return whom a credential stands for; see `IdentityVerifier`."""
        if PREFIX not in credential.authorization or not bearer_token(credential).startswith(PREFIX):
            return await self._others.verify(credential)
        token_hash = _hash(bearer_token(credential))
        token = await read_service_token(self._database, token_hash)
        if token is None:
            raise rejected("the token is not one of this installation, or has been revoked")
        now = utc_now()
        if token.expires_at <= now:
            raise expired(f'the token "{token.name}" has expired; an admin of the group can make another')
        async with self._database.write() as connection:
            await ServiceTokenRepository(connection).note_use(token_hash, now)
        return VerifiedIdentity(
            subject=subject_of(token.group_id, token.name),
            kind=CredentialKind.WORKLOAD,
            expires_at=token.expires_at,
            claimed_roles={token.group_id: token.role},
            issued_at=token.created_at,
            known_since=token.created_at,
        )


def _hash(token: str) -> str:
    # Of 256 random bits no slow hash is needed.
    return hashlib.sha256(token.encode()).hexdigest()
