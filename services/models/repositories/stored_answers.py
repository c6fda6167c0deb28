"""Rows of stored answers, and of the claims of calls that are to store one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, delete, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.upsert import insert_ignore
from services.models.tables import stored_answers

_COLUMNS = stored_answers.c


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """An answer, or the claim of a call under way."""

    group_id: str
    key: str
    body_hash: str
    """What a repeated request has to be equal to."""
    sealed: bytes | None
    """None for a claim."""
    claimed_by: str
    """The process of a call under way; empty for an answer."""
    created_at: datetime
    expires_at: datetime
    """When the answer, or the claim unless it is renewed, is void."""


async def read_answer(database: Database, group_id: str, key: str) -> AnswerRow | None:
    """Return a row, which may have expired."""
    rows = await database.fetch(
        select(*(_COLUMNS[name] for name in AnswerRow.__slots__)).where(
            _COLUMNS.group_id == group_id, _COLUMNS.key == key
        )
    )
    return AnswerRow(**rows[0]) if rows else None


class StoredAnswerRepository:
    """Stored answers and claims by group and key."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, row: AnswerRow) -> bool:
        """Insert a row, and return whether there was none of its key."""
        return await insert_ignore(self._connection, stored_answers, _values(row))

    async def replace(self, row: AnswerRow, *, claimed_by: str) -> None:
        """Store an answer instead of an older one or of a claim of the process; another process's claim stays."""
        await self._connection.execute(
            delete(stored_answers).where(
                _COLUMNS.group_id == row.group_id,
                _COLUMNS.key == row.key,
                or_(_COLUMNS.claimed_by.in_(("", claimed_by)), _COLUMNS.expires_at < row.created_at),
            )
        )
        await insert_ignore(self._connection, stored_answers, _values(row))

    async def remove(self, row: AnswerRow) -> None:
        """Remove a row as it was read: one that was written or renewed since stays."""
        await self._connection.execute(
            delete(stored_answers).where(
                _COLUMNS.group_id == row.group_id,
                _COLUMNS.key == row.key,
                _COLUMNS.claimed_by == row.claimed_by,
                _COLUMNS.expires_at == row.expires_at,
            )
        )

    async def release(self, group_id: str, key: str, claimed_by: str) -> None:
        """Give up a claim."""
        await self._connection.execute(
            delete(stored_answers).where(
                _COLUMNS.group_id == group_id, _COLUMNS.key == key, _COLUMNS.claimed_by == claimed_by
            )
        )

    async def renew(self, claimed_by: str, claims: Sequence[tuple[str, str]], until: datetime) -> None:
        """Let claims of a process, each the group and the key of its row, last longer."""
        # With the group, the primary key finds them: a scan of all answers would take longer than a claim lasts.
        claimed = (_COLUMNS.claimed_by == claimed_by, tuple_(_COLUMNS.group_id, _COLUMNS.key).in_(claims))
        await self._connection.execute(update(stored_answers).where(*claimed).values(expires_at=until))

    async def trim(self, group_id: str, *, answers: int, size: int) -> None:
        """Remove the oldest answers of a group beyond a number of them, and of bytes."""
        order = (_COLUMNS.created_at.desc(), _COLUMNS.key)
        ranked = (
            select(
                _COLUMNS.key,
                func.row_number().over(order_by=order).label("position"),
                func.sum(_COLUMNS.size).over(order_by=order).label("total"),
            )
            .where(_COLUMNS.group_id == group_id, _COLUMNS.claimed_by == "")
            .subquery()
        )
        beyond = select(ranked.c.key).where(or_(ranked.c.position > answers, ranked.c.total > size))
        await self._connection.execute(
            delete(stored_answers).where(and_(_COLUMNS.group_id == group_id, _COLUMNS.key.in_(beyond)))
        )


def _values(row: AnswerRow) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(row, name) for name in AnswerRow.__slots__}
    return values | {"size": len(row.sealed or b"")}
