"""How many executions of groups may run at once."""

from collections.abc import Collection, Mapping

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.upsert import insert_or_replace
from services.orchestrator.tables import executions, running_limits


class RunningLimitRepository:
    """Rows of `running_limits`, of groups that have such a limit."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def set(self, limits: Mapping[str, int]) -> None:
        """Store limits by group; at least one."""
        rows = [{"group_id": group_id, "max_running": limits[group_id]} for group_id in sorted(limits)]
        await insert_or_replace(self._connection, running_limits, rows, key=("group_id",))

    async def keep(self, group_id: str, limit: int | None) -> None:
        """Store the limit of a group, or that it has none."""
        if limit is None:
            await self.remove([group_id])
        else:
            await self.set({group_id: limit})

    async def remove(self, group_ids: Collection[str]) -> None:
        """Let groups run any number."""
        await self._connection.execute(delete(running_limits).where(running_limits.c.group_id.in_(group_ids)))


async def read_running_limits(database: Database) -> dict[str, int]:
    """Return all limits, by group."""
    return {row["group_id"]: row["max_running"] for row in await database.fetch(select(running_limits))}


async def read_open_groups(database: Database) -> list[str]:
    """Return the groups that have executions which have not ended."""
    statement = select(executions.c.group_id).where(executions.c.ended_at.is_(None)).distinct()
    return [row["group_id"] for row in await database.fetch(statement)]


async def read_one_waiting(database: Database, group_ids: Collection[str]) -> list[str]:
    """Return one of the executions that wait for a worker host of each group where any does."""
    if not group_ids:
        return []
    statement = (
        select(func.min(executions.c.id).label("id"))
        .where(executions.c.ready.is_(True), executions.c.group_id.in_(group_ids))
        .group_by(executions.c.group_id)
    )
    return [row["id"] for row in await database.fetch(statement)]
