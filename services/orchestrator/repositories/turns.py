"""Turns of executions that share a key, in SQL."""

from collections.abc import Collection

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.named_locks import lock_name
from services.orchestrator.tables import executions

_UNENDED = (executions.c.concurrency_key != "", executions.c.ended_at.is_(None))


class TurnRepository:
    """Executions of one group that share a key and have not ended."""

    def __init__(self, connection: AsyncConnection, group_id: str, key: str) -> None:
        self._connection = connection
        self._group_id = group_id
        self._key = key
        self._mine = (executions.c.group_id == group_id, executions.c.concurrency_key == key, *_UNENDED)

    async def lock(self) -> None:
        """Let nobody else start executions with the key until the transaction ends."""
        await lock_name(self._connection, f"coxswain-turn {self._group_id} {self._key}")

    async def unended(self) -> list[str]:
        """Return the executions that have not ended, oldest first."""
        rows = await self._connection.execute(select(executions.c.id).where(*self._mine).order_by(executions.c.id))
        return list(rows.scalars())

    async def pass_on(self) -> str | None:
        """Make the oldest one that waits for its turn ready, when no other one is on; return its id."""
        on = select(executions.c.id).where(*self._mine, executions.c.waits_turn.is_(False)).limit(1)
        if (await self._connection.execute(on)).first() is not None:
            return None
        waiting = select(func.min(executions.c.id)).where(*self._mine, executions.c.waits_turn.is_(True))
        passed = await self._connection.execute(
            update(executions)
            .where(executions.c.id == waiting.scalar_subquery(), executions.c.ended_at.is_(None))
            .values(waits_turn=False, ready=True)
            .returning(executions.c.id)
        )
        execution_id: str | None = passed.scalar_one_or_none()
        return execution_id


async def read_waiting_keys(database: Database) -> list[tuple[str, str]]:
    """Return the groups and keys of which an execution waits for its turn."""
    rows = await database.fetch(
        select(executions.c.group_id, executions.c.concurrency_key)
        .where(*_UNENDED, executions.c.waits_turn.is_(True))
        .distinct()
    )
    return [(row["group_id"], row["concurrency_key"]) for row in rows]


async def read_turns(database: Database, execution_ids: Collection[str]) -> dict[str, int]:
    """Return of those executions that wait for their turn how many with their key have to end before."""
    older = executions.alias("older")
    rows = await database.fetch(
        select(executions.c.id, func.count(older.c.id).label("ahead"))
        .join(
            older,
            (older.c.group_id == executions.c.group_id)
            & (older.c.concurrency_key == executions.c.concurrency_key)
            & (older.c.concurrency_key != "")
            & older.c.ended_at.is_(None)
            & (older.c.id < executions.c.id),
        )
        .where(executions.c.id.in_(execution_ids), executions.c.waits_turn.is_(True), executions.c.ended_at.is_(None))
        .group_by(executions.c.id)
    )
    return {row["id"]: row["ahead"] for row in rows}
