"""Ended executions whose time is over, in SQL."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.upsert import insert_or_update
from services.orchestrator.tables import batches, execution_retention, executions, gateway_calls, tool_journal


class RetentionRepository:
    """For how long groups keep executions, and the removal of those that are older."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def chosen(self, group_id: str) -> float | None:
        """Return the seconds that a group chose (0: for ever); None when it chose nothing."""
        found = await self._connection.execute(
            select(execution_retention.c.seconds).where(execution_retention.c.group_id == group_id)
        )
        return found.scalar_one_or_none()

    async def choose(self, group_id: str, seconds: float | None) -> None:
        """Store what a group chose; None: nothing."""
        if seconds is None:
            await self._connection.execute(
                delete(execution_retention).where(execution_retention.c.group_id == group_id)
            )
        else:
            row = {"group_id": group_id, "seconds": seconds}
            await insert_or_update(self._connection, execution_retention, row, key=("group_id",), update=("seconds",))

    async def next_group_with_choice(self, after: str) -> str | None:
        """Return the first group after another that lets executions go."""
        found = await self._connection.execute(
            select(func.min(execution_retention.c.group_id)).where(
                execution_retention.c.group_id > after, execution_retention.c.seconds > 0
            )
        )
        group_id: str | None = found.scalar_one()
        return group_id

    async def next_group(self, after: str) -> str | None:
        """Return the first group after another that has ended executions or batches."""
        found: list[str] = []
        for table in (executions, batches):
            first = select(func.min(table.c.group_id)).where(table.c.group_id > after, table.c.ended_at.is_not(None))
            found += filter(None, [(await self._connection.execute(first)).scalar_one()])
        return min(found, default=None)

    async def delete_ended(self, group_id: str, before: datetime, limit: int) -> int:
        """Delete up to `limit` executions of a group that ended before a time, oldest first; return how many.

        Those that another transaction has locked are left for the next time, and so are those whose grant has not been
        revoked: it is known by their rows alone.
        """
        found = await self._connection.execute(
            select(executions.c.id)
            .where(
                executions.c.group_id == group_id, executions.c.ended_at < before, executions.c.grant_open.is_(False)
            )
            .order_by(executions.c.ended_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return await self.delete(group_id, list(found.scalars()))

    async def delete(self, group_id: str, execution_ids: Collection[str]) -> int:
        """Delete executions of a group that have ended, with all that belongs to them; return how many there were."""
        deleted = await self._connection.execute(
            delete(executions).where(
                executions.c.group_id == group_id,
                executions.c.id.in_(execution_ids),
                executions.c.ended_at.is_not(None),
            )
        )
        await self._delete_calls(group_id, execution_ids)
        return deleted.rowcount

    async def _delete_calls(self, group_id: str, execution_ids: Collection[str]) -> None:
        """Forget what was called for deleted executions, unless one that continues them may still ask for it.

        Not by a foreign key: calls of TestTool belong to no execution.
        """
        kept = select(executions.c.id).where(executions.c.id.in_(execution_ids))
        of_deleted = (
            gateway_calls.c.group_id == group_id,
            gateway_calls.c.execution_id.in_(execution_ids),
            gateway_calls.c.execution_id.not_in(kept),
        )
        heir = (
            select(func.min(tool_journal.c.execution_id))
            .where(tool_journal.c.call_id == gateway_calls.c.call_id)
            .scalar_subquery()
        )
        await self._connection.execute(
            update(gateway_calls).where(*of_deleted, heir.is_not(None)).values(execution_id=heir)
        )
        await self._connection.execute(delete(gateway_calls).where(*of_deleted))
