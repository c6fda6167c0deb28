"""Taking access back at once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.repositories.access_changes import AccessChangeRepository, read_changes, read_revocation
from services.auth.repositories.grants import GrantRepository
from services.auth.repositories.members import MemberRepository
from services.auth.repositories.sessions import SessionRepository
from services.auth.usecases.ended_tokens import end_tokens_of
from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.row_quota import check_row_quota
from services.common.errors import Unauthenticated
from services.common.identity.access_changes import MARGIN_SECONDS, AccessChange
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.common.quotas import quota_exceeded

# Every process asks every two seconds: the database is asked once for all of them.
_KEPT_SECONDS = 2.0
_KEPT_PAGES = 32
# A page of the longest names is a third of what a message may have.
_CHANGES = Pager("access changes", key_types=(int, str, str), default=500, maximum=500)
# Every process keeps all changes: no group may have them keep whatever it makes up.
_MOST_CHANGES_OF_A_GROUP = 10_000
_RETRY_SECONDS = 60.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Access:
    """Revokes what subjects have going, and tells all processes of it."""

    def __init__(
        self, database: Database, *, contradicted: timedelta, retention: timedelta, most_revocations: int
    ) -> None:
        """`contradicted` is for how long a principal, or what a process remembers, may contradict a change.

        `retention` is for how long a revocation is kept, and `most_revocations` are those that a group may have.
        """
        self._database = database
        self._retention = retention
        self._most_revocations = most_revocations
        self._contradicted = contradicted
        self._pages: AsyncCache[tuple[datetime | None, int, str], Page[AccessChange]] = AsyncCache(
            _KEPT_PAGES, _KEPT_SECONDS
        )

    async def revoke(self, subject: str, group_id: str) -> tuple[datetime, int, int]:
        """End a subject's access to a group ("" for all) with what was issued until now.

        Returns the moment, how many grants have ended, and how many service tokens that the subject made there.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED, the access of too many has changed in the group lately, or it keeps as
                many revocations as it may.
        """
        async with self._database.write() as connection:
            changes = AccessChangeRepository(connection)
            if group_id:
                await self.require_room(connection, subject, group_id)
                if not await changes.has_revoked(subject, group_id):
                    await self._require_place(connection, group_id)
            # After the quota's lock: a revocation takes several of these, and never that one again.
            await changes.lock(subject)
            # Not before: what is issued while this waits for others has to be covered too.
            now = utc_now()
            await changes.revoke(subject, group_id, now)
            ended = await GrantRepository(connection).revoke_of_subject(subject, group_id, now)
            if not group_id:
                await SessionRepository(connection).drop_tokens(subject)
            ended_tokens = await end_tokens_of(connection, subject, group_id)
        self._pages.forget_where(lambda _asked: True)
        return now, ended, ended_tokens

    async def _require_place(self, connection: AsyncConnection, group_id: str) -> None:
        await check_row_quota(
            connection,
            "revocations",
            self._most_revocations,
            tables.access_changes.c.group_id,
            group_id,
            tables.access_changes.c.revoked_at.is_not(None),
            what="subjects whose access was revoked",
            remedy="have a platform admin revoke access everywhere",
        )

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
        """Refuse a principal of before its access was revoked, and have revocations wait until the transaction ends.

        What the transaction stores is there for the next revocation to end, or is never stored.

        Raises:
            Unauthenticated: CREDENTIAL_REJECTED.
        """
        changes = AccessChangeRepository(connection)
        await changes.lock(principal.subject, shared=True)
        revoked_at = await changes.revoked_at(principal.subject, principal.group_id)
        if revoked_at is not None and principal.issued_at < revoked_at.timestamp() + MARGIN_SECONDS:
            raise _revoked(revoked_at)

    async def require_room(self, connection: AsyncConnection, subject: str, group_id: str) -> None:
        """Refuse one more change in a group where too many subjects have changed lately, unless it is about a member.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED.
        """
        most, since = _MOST_CHANGES_OF_A_GROUP, utc_now() - self._contradicted
        others = await AccessChangeRepository(connection).count_others(subject, group_id, since, most)
        if others >= most and await MemberRepository(connection).get(group_id, subject) is None:
            raise quota_exceeded(
                "access_changes",
                most,
                others,
                f"the access of {others:,} subjects has changed in your group within the last "
                f"{self._contradicted.total_seconds() / 60:.0f} minutes, which is as many as may; try again later",
                retry_after=_RETRY_SECONDS,
            )

    async def page(self, since: datetime | None, size: int, token: str) -> Page[AccessChange]:
        """Return a page of the changes since a moment, newest first; None: all that may still be contradicted.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        return await self._pages.get((since, size, token), lambda: self._read_page(since, size, token))

    async def changes(self, since: datetime | None) -> Sequence[AccessChange]:
        """Return all pages of the changes since a moment."""
        page = await self.page(since, 0, "")
        changes = list(page.items)
        while page.next_page_token:
            page = await self.page(since, 0, page.next_page_token)
            changes += page.items
        return changes

    async def _read_page(self, since: datetime | None, size: int, token: str) -> Page[AccessChange]:
        oldest = utc_now() - self._contradicted

        async def read(after: list[Any] | None, limit: int) -> list[AccessChange]:
            position = (_EPOCH + timedelta(microseconds=after[0]), after[1], after[2]) if after is not None else None
            return await read_changes(self._database, max(since or oldest, oldest), position, limit)

        return await _CHANGES.page(
            size,
            token,
            {"since": since},
            read,
            lambda change: [round(change.changed_at * 1e6), change.subject, change.group_id],
        )

    async def clean(self) -> int:
        """Remove changes that nothing can contradict any more, and return how many; revocations stay for long."""
        now = utc_now()
        async with self._database.write() as connection:
            return await AccessChangeRepository(connection).delete_stale(
                now - self._contradicted, now - self._retention
            )


def _revoked(revoked_at: datetime) -> Unauthenticated:
    return Unauthenticated(
        f"an admin has revoked what was issued to you until {revoked_at:%Y-%m-%d %H:%M:%S} UTC; sign in again",
        reason="CREDENTIAL_REJECTED",
    )
