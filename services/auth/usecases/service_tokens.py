"""Tokens of groups for machines that have no issuer."""

from datetime import timedelta

from services.auth.domain import ServiceToken
from services.auth.identity.service_tokens import new_token, subject_of
from services.auth.repositories.service_tokens import ServiceTokenRepository
from services.auth.usecases.access import Access
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import AlreadyExists, InvalidArgument, NotFound
from services.common.identity.principal import Principal, Role
from services.common.paging import Page, Pager

_TOKENS = Pager("service tokens")


class ServiceTokens:
    """Makes, lists and revokes tokens of a group."""

    def __init__(self, database: Database, access: Access, *, longest: timedelta) -> None:
        """`longest` is for how long a token may be valid."""
        self._database = database
        self._access = access
        self._longest = longest

    async def create(
        self, principal: Principal, name: str, role: Role, lifetime: timedelta
    ) -> tuple[str, ServiceToken]:
        """Make a token of the principal's group; return it, this once, and what is kept of it.

        Raises:
            AlreadyExists: the name is in use.
            InvalidArgument: it would be valid for longer than the operator allows.
        """
        if lifetime > self._longest:
            raise InvalidArgument.field(
                "lifetime",
                f"must be at most {self._longest.total_seconds():.0f} s (COXSWAIN_AUTH_SERVICE_TOKEN_SECONDS)",
            )
        token, token_hash = new_token()
        now = utc_now()
        kept = ServiceToken(principal.group_id, name, role, principal.subject, now, now + lifetime, None)
        async with self._database.write() as connection:
            if not await ServiceTokenRepository(connection).add(kept, token_hash):
                raise AlreadyExists(
                    f'the group has a token "{name}"; revoke it first, or choose another name',
                    metadata={"resource": "service token", "name": name},
                )
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
            if not await ServiceTokenRepository(connection).remove(group_id, name):
                raise NotFound.of("service token", name)
        now = utc_now()
        subject = subject_of(ServiceToken(group_id, name, Role.OPERATOR, "", now, now, None))
        await self._access.revoke(subject, group_id, is_known=True)
