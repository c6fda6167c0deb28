"""Tokens of groups for machines that have no issuer."""

from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import ServiceToken
from services.auth.identity.service_tokens import new_token, subject_of, token_of
from services.auth.identity.sessions import SessionStore
from services.auth.repositories.access_changes import AccessChangeRepository
from services.auth.repositories.members import MemberRepository
from services.auth.repositories.service_tokens import ServiceTokenRepository
from services.auth.usecases.access import Access
from services.auth.usecases.ended_tokens import end_token
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.row_quota import check_row_quota
from services.common.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from services.common.identity.principal import Principal, Role
from services.common.paging import Page, Pager

_TOKENS = Pager("service tokens")
# Expired tokens are listed for a while: people see why a machine is refused.
_LISTED = timedelta(days=30)
_MOMENT = timedelta(microseconds=1)


class ServiceTokens:
    """Makes, lists and revokes tokens of a group."""

    def __init__(
        self, database: Database, sessions: SessionStore, access: Access, *, longest: timedelta, most: int
    ) -> None:
        """`longest` is for how long a token may be valid, `most` how many a group may have."""
        self._database = database
        self._sessions = sessions
        self._access = access
        self._longest = longest
        self._most = most

    async def create(
        self, principal: Principal, name: str, role: Role, lifetime: timedelta
    ) -> tuple[str, ServiceToken]:
        """Make a token of the principal's group; return it, this once, and what is kept of it.

        Raises:
            AlreadyExists: the name is in use.
            InvalidArgument: it would be valid for longer than the operator allows.
            PermissionDenied: TOKEN_NOT_ALLOWED, the caller is such a token; GROUP_NOT_MEMBER, they have been removed.
            Unauthenticated: CREDENTIAL_REJECTED, their access has been revoked.
            ResourceExhausted: QUOTA_EXCEEDED, the group has as many tokens as it may.
        """
        if token_of(principal.subject) is not None:
            raise PermissionDenied(
                "a token cannot make tokens, as they would outlive it; an admin who signs in as themselves can",
                reason="TOKEN_NOT_ALLOWED",
            )
        if lifetime > self._longest:
            raise InvalidArgument.field(
                "lifetime",
                f"must be at most {self._longest.total_seconds():.0f} s (COXSWAIN_AUTH_SERVICE_TOKEN_SECONDS)",
            )
        token, token_hash = new_token()
        now = utc_now()
        kept = ServiceToken(principal.group_id, name, role, principal.subject, now, now + lifetime, None)
        session = await self._sessions.get(principal.session_id)
        by_claim = session is not None and principal.group_id in session.claimed_roles
        async with self._database.write() as connection:
            await self._access.hold(connection, principal)
            if not by_claim and await MemberRepository(connection).get(principal.group_id, principal.subject) is None:
                raise PermissionDenied(
                    "you have just been removed from the group, and what you make there would outlast that",
                    reason="GROUP_NOT_MEMBER",
                    metadata={"group": principal.group_id},
                )
            await check_row_quota(
                connection,
                "service_tokens",
                self._most,
                tables.service_tokens.c.group_id,
                principal.group_id,
                what="service tokens",
                remedy="revoke some, expired ones among them",
            )
            if not await ServiceTokenRepository(connection).add(kept, token_hash):
                raise AlreadyExists(
                    f'the group has a token "{name}"; revoke it first, or choose another name',
                    metadata={"resource": "service token", "name": name},
                )
            kept = await _later_than_revoked(connection, kept)
        return token, kept

    async def page(self, group_id: str, size: int, token: str) -> Page[ServiceToken]:
        """Return a page of a group's tokens, by name.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        async with self._database.read() as connection:
            tokens = ServiceTokenRepository(connection)
            return await _TOKENS.page(
                size,
                token,
                {"group_id": group_id},
                lambda after, limit: tokens.page(group_id, after[0] if after else "", limit),
                lambda kept: [kept.name],
            )

    async def revoke(self, group_id: str, name: str) -> None:
        """End a token and what it has going.

        Raises:
            NotFound: the group has no token of that name.
        """
        async with self._database.write() as connection:
            if not await end_token(connection, group_id, name):
                raise NotFound.of("service token", name)

    async def clean(self) -> int:
        """Remove tokens that expired long ago and return how many."""
        async with self._database.write() as connection:
            expired = await ServiceTokenRepository(connection).expired(utc_now() - _LISTED)
            return sum([await end_token(connection, *each) for each in expired])


async def _later_than_revoked(connection: AsyncConnection, token: ServiceToken) -> ServiceToken:
    """Return a token, made later than its subject was revoked last, whatever the clock of who revoked it said."""
    revoked_at = await AccessChangeRepository(connection).last_revoked_at(subject_of(token.group_id, token.name))
    if revoked_at is None or revoked_at < token.created_at:
        return token
    later = replace(token, created_at=revoked_at + _MOMENT)
    await ServiceTokenRepository(connection).move(token.group_id, token.name, later.created_at)
    return later
