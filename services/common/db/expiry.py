"""Removing rows whose time is over."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, delete, func, select, tuple_

from services.common.db.database import Database

# More rows at once would keep other writers waiting.
_PORTION = 1000


async def remove_before(database: Database, time: Column[Any], before: datetime) -> int:
    """Remove the rows of a table whose column `time` is earlier, oldest first and in portions; return how many.

    Rows that somebody has locked are left to the next time. Nothing is written where there are no such rows.
    """
    async with database.read() as connection:
        if await connection.scalar(select(time).where(time < before).limit(1)) is None:
            return 0
    return await _remove(database, time, time < before)


async def remove_before_by_group(
    database: Database, group_id: Column[Any], time: Column[Any], before: datetime | str
) -> None:
    """Remove the rows of a table whose column `time` is earlier, group by group, oldest first and in portions.

    For tables whose index on the time begins with the group, or with few rows of each. Replicas may do it at once.
    Nothing is written for a group that has no such rows.
    """
    group = ""
    while True:
        following = select(func.min(group_id).label("name")).where(group_id > group).cte()
        oldest = select(func.min(time)).where(group_id == following.c.name).scalar_subquery()
        async with database.read() as connection:
            group, since = (await connection.execute(select(following.c.name, oldest))).one()
        if group is None:
            return
        if since < before:
            await _remove(database, time, group_id == group, time < before)


async def _remove(database: Database, time: Column[Any], *which: ColumnElement[bool]) -> int:
    # Waiting for none of several rows, it can be part of no deadlock.
    key = tuple(time.table.primary_key.columns)
    old = select(*key).where(*which).order_by(time).limit(_PORTION).with_for_update(skip_locked=True)
    removed, portion = 0, _PORTION
    while portion == _PORTION:
        async with database.write() as connection:
            portion = (await connection.execute(delete(time.table).where(tuple_(*key).in_(old)))).rowcount
        removed += portion
    return removed
