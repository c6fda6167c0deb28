"""Taking access back at once."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.repositories.access_changes import AccessChangeRepository, read_changes, read_revocation
from services.auth.repositories.grants import GrantRepository
from services.auth.repositories.sessions import SessionRepository
from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.named_locks import lock_name
from services.common.errors import Unauthenticated
from services.common.identity.access_changes import MARGIN_SECONDS, AccessChange
from services.common.identity.principal import Principal

# Every process asks every two seconds: the database is asked once for all of them.
_KEPT_SECONDS = 1.0


class Access:
    """Revokes what subjects have going, and tells all processes of it."""

    def __init__(self, database: Database, *, contradicted: timedelta) -> None:
        """`contradicted` is for how long a principal, or what a process remembers, may contradict a change."""
        self._database = database
        self._contradicted = contradicted
        self._changes: AsyncCache[str, list[AccessChange]] = AsyncCache(1, _KEPT_SECONDS)

    async def revoke(self, subject: str, group_id: str) -> tuple[datetime, int]:
        """End a subject's access to a group ("" for all) with what was issued until now.

        Returns the moment, and how many grants have ended.
        """
        async with self._database.write() as connection:
            await _lock(connection, subject)
            # Not before: what is issued while this waits for others has to be covered too.
            now = utc_now()
            await AccessChangeRepository(connection).revoke(subject, group_id, now)
            ended = await GrantRepository(connection).revoke_of_subject(subject, group_id, now)
            if not group_id:
                await SessionRepository(connection).drop_tokens(subject)
        self._changes.forget("")
        return now, ended

    async def require(self, subject: str, group_id: str, issued_at: datetime) -> None:
        """Refuse a credential of before the access was revoked.

        Raises:
            Unauthenticated: CREDENTIAL_REJECTED.
        """
        revoked_at = await self.revoked_at(subject, group_id)
        if revoked_at is not None and issued_at <= revoked_at:
            raise _revoked(revoked_at)

    async def revoked_at(self, subject: str, group_id: str) -> datetime | None:
        """Return when a subject's access to a group was revoked last, in this group or in all; None: never."""
        return await read_revocation(self._database, subject, group_id)

    async def hold(self, connection: AsyncConnection, principal: Principal) -> None:
        """Refuse a principal of before its access was revoked, and keep it from being revoked until the transaction ends.

        What the transaction stores is there for the next revocation to end, or is never stored.

        Raises:
            Unauthenticated: CREDENTIAL_REJECTED.
        """
        await _lock(connection, principal.subject)
        revoked_at = await AccessChangeRepository(connection).revoked_at(principal.subject, principal.group_id)
        if revoked_at is not None and principal.issued_at < revoked_at.timestamp() + MARGIN_SECONDS:
            raise _revoked(revoked_at)

    async def changes(self) -> list[AccessChange]:
        """Return the changes that something issued before may still contradict."""
        return await self._changes.get("", lambda: read_changes(self._database, utc_now() - self._contradicted))

    async def clean(self) -> int:
        """Remove changes that nothing can contradict any more, and return how many; revocations stay."""
        async with self._database.write() as connection:
            return await AccessChangeRepository(connection).delete_changes(utc_now() - self._contradicted)


async def _lock(connection: AsyncConnection, subject: str) -> None:
    await lock_name(connection, f"access/{subject}")


def _revoked(revoked_at: datetime) -> Unauthenticated:
    return Unauthenticated(
        f"an admin has revoked what was issued to you until {revoked_at:%Y-%m-%d %H:%M:%S} UTC; sign in again",
        reason="CREDENTIAL_REJECTED",
    )
