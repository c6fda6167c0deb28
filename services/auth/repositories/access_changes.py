"""Whose access was changed or revoked, and when."""

from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, delete, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth import tables
from services.auth.domain import TOKEN_ISSUER
from services.common.db.database import Database
from services.common.db.named_locks import lock_name
from services.common.db.upsert import insert_or_update
from services.common.identity.access_changes import EVERYBODY, AccessChange

_TABLE = tables.access_changes


class AccessChangeRepository:
    """Rows of `access_changes`; the group "" stands for all, and so does the subject ""."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def note(self, subject: str, group_id: str, now: datetime) -> None:
        """Store that membership or role changed."""
        await self._put(subject, group_id, now, None, update=("changed_at",))

    async def revoke(self, subject: str, group_id: str, now: datetime) -> None:
        """Store that what was issued until now counts no longer."""
        await self._put(subject, group_id, now, now, update=("changed_at", "revoked_at"))

    async def lock(self, subject: str, *, shared: bool = False) -> None:
        """Let changes of a subject's access wait for what it makes that would outlast them, and the other way round.

        What it makes locks it `shared`, and does not wait for more of that.
        """
        await lock_name(self._connection, f"access/{subject}", shared=shared)

    async def last_revoked_at(self, subject: str) -> datetime | None:
        """Return when access was revoked last, to whatever group; None: never."""
        newest: datetime | None = await self._connection.scalar(
            select(func.max(_TABLE.c.revoked_at, type_=_TABLE.c.revoked_at.type)).where(_TABLE.c.subject == subject)
        )
        return newest

    async def _put(
        self, subject: str, group_id: str, changed_at: datetime, revoked_at: datetime | None, update: tuple[str, ...]
    ) -> None:
        values = {"subject": subject, "group_id": group_id, "changed_at": changed_at, "revoked_at": revoked_at}
        await insert_or_update(self._connection, _TABLE, values, key=("subject", "group_id"), update=update)

    async def revoked_at(self, subject: str, group_id: str) -> datetime | None:
        """Return when access to a group was revoked last, in this group or in all; None: never."""
        revoked_at: datetime | None = await self._connection.scalar(_revoked_at(subject, group_id))
        return revoked_at

    async def count_others(self, subject: str, group_id: str, since: datetime, most: int) -> int:
        """Return how many other subjects of a group have changed since a moment, counted up to `most`."""
        others = select(_TABLE.c.subject).where(
            _TABLE.c.group_id == group_id, _TABLE.c.changed_at >= since, _TABLE.c.subject != subject
        )
        return await self._connection.scalar(select(func.count()).select_from(others.limit(most).subquery())) or 0

    async def has_revoked(self, subject: str, group_id: str) -> bool:
        """Return whether it is stored that a subject's access to this group was revoked."""
        revoked = select(_TABLE.c.subject).where(
            _TABLE.c.subject == subject, _TABLE.c.group_id == group_id, _TABLE.c.revoked_at.is_not(None)
        )
        return (await self._connection.execute(revoked)).first() is not None

    async def delete_stale(self, changed_before: datetime, revoked_before: datetime) -> int:
        """Remove changes of before a moment that revoked nothing since another one, or all of a deleted group.

        Returns how many.
        """
        # What ended a token in all groups has removed the token itself.
        of_ended_token = and_(_TABLE.c.group_id == "", _TABLE.c.subject.startswith(f"{TOKEN_ISSUER}|", autoescape=True))
        stale = delete(_TABLE).where(
            _TABLE.c.changed_at < changed_before,
            or_(
                _TABLE.c.revoked_at.is_(None),
                _TABLE.c.revoked_at < revoked_before,
                _TABLE.c.subject == EVERYBODY,
                of_ended_token,
            ),
        )
        return int((await self._connection.execute(stale)).rowcount)


async def read_changes(
    database: Database, since: datetime, after: tuple[datetime, str, str] | None, limit: int
) -> list[AccessChange]:
    """Return up to `limit` changes since a moment, newest first, those after (changed at, subject, group id)."""
    order = (_TABLE.c.changed_at, _TABLE.c.subject, _TABLE.c.group_id)
    statement = select(_TABLE).where(_TABLE.c.changed_at >= since)
    if after is not None:
        position = tuple_(*(literal(part, column.type) for part, column in zip(after, order, strict=True)))
        statement = statement.where(tuple_(*order) < position)
    rows = await database.fetch(statement.order_by(*(column.desc() for column in order)).limit(limit))
    return [
        AccessChange(
            row["subject"],
            row["group_id"],
            row["changed_at"].timestamp(),
            row["revoked_at"].timestamp() if row["revoked_at"] is not None else 0.0,
        )
        for row in rows
    ]


async def read_revocation(database: Database, subject: str, group_id: str) -> datetime | None:
    """Return when access to a group was revoked last, in this group or in all; None: never."""
    # Every exchange of a credential reads this: one statement needs no transaction.
    rows = await database.fetch(_revoked_at(subject, group_id))
    revoked_at: datetime | None = rows[0]["revoked_at"]
    return revoked_at


def _revoked_at(subject: str, group_id: str) -> Select[Any]:
    return select(func.max(_TABLE.c.revoked_at, type_=_TABLE.c.revoked_at.type).label("revoked_at")).where(
        _TABLE.c.subject == subject, _TABLE.c.group_id.in_((group_id, ""))
    )
