"""Removing rows whose time is over."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, delete, func, select, tuple_

from services.common.db.database import Database

# More rows at once would keep other writers waiting.
_PORTION = 1000


async def remove_before(database: Database, time: Column[Any], before: datetime) -> int:
    """Remove the rows of a table whose column `time` is earlier, oldest first and in portions; return how many."""
    oldest = select(time).where(time < before).order_by(time).limit(_PORTION).subquery()
    removed = 0
    while True:
        async with database.read() as connection:
            until = await connection.scalar(select(func.max(oldest.c[time.name])))
        if until is None:
            return removed
        async with database.write() as connection:
            removed += (await connection.execute(delete(time.table).where(time <= until))).rowcount


async def remove_before_by_group(
    database: Database, group_id: Column[Any], time: Column[Any], before: datetime | str
) -> None:
    """Remove the rows of a table whose column `time` is earlier, group by group, oldest first and in portions.

    For tables whose index on the time begins with the group, or with few rows of each. Replicas may do it at once.
    Nothing is written for a group that has no such rows.
    """
    key = tuple(time.table.primary_key.columns)
    group = ""
    while True:
        following = select(func.min(group_id).label("name")).where(group_id > group).cte()
        oldest = select(func.min(time)).where(group_id == following.c.name).scalar_subquery()
        async with database.read() as connection:
            group, since = (await connection.execute(select(following.c.name, oldest))).one()
        if group is None:
            return
        if since >= before:
            continue
        old = (
            select(*key)
            .where(group_id == group, time < before)
            .order_by(time)
            .limit(_PORTION)
            .with_for_update(skip_locked=True)
        )
        removed = _PORTION
        while removed == _PORTION:
            async with database.write() as connection:
                removed = (await connection.execute(delete(time.table).where(tuple_(*key).in_(old)))).rowcount
