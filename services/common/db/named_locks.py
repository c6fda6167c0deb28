"""Locks by name, for what no row stands for."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection


async def lock_name(connection: AsyncConnection, name: str, *, shared: bool = False) -> None:
    """Keep others from locking a name until the transaction ends; wait for who has it. SQLite has one writer anyway.

    Those that lock it `shared` do not wait for each other.
    """
    if connection.dialect.name == "postgresql":
        take = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        await connection.execute(select(take(func.hashtextextended(name, 0))))
