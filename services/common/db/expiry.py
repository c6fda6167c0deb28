"""Removing rows whose time is over."""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, delete, func, select

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
