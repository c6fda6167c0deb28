"""Locks by name, for what no row stands for."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection


async def lock_name(connection: AsyncConnection, name: str) -> None:
    """Keep others from locking a name until the transaction ends; wait for who has it. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
