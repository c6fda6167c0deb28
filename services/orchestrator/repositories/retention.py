"""Ended executions whose time is over, in SQL."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.upsert import insert_or_update
from services.orchestrator.repositories.gateway_calls import GatewayCallRepository
from services.orchestrator.repositories.webhooks import WebhookRepository
from services.orchestrator.tables import batches, execution_retention, executions, gateway_calls


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
        ended = await self._connection.execute(
            select(executions.c.id, executions.c.resumed_from)
            .where(
                executions.c.group_id == group_id,
                executions.c.id.in_(execution_ids),
                executions.c.ended_at.is_not(None),
            )
            .order_by(executions.c.id)
            .with_for_update()
        )
        continued = {row.id: row.resumed_from for row in ended}
        # Who posts locks a webhook before its deliveries, and the rows that go with an execution have no such order.
        await WebhookRepository(self._connection).lock_of(continued)
        calls = GatewayCallRepository(self._connection)
        unknown = await calls.unknown_to(continued)
        deleted = await self._connection.execute(
            delete(executions).where(executions.c.id.in_(continued), executions.c.ended_at.is_not(None))
        )
        # Not by a foreign key: calls of TestTool belong to no execution.
        for execution_id in {execution_id for execution_id, _ in unknown}:
            relative = await self._relative(group_id, execution_id, continued[execution_id])
            if relative is not None:
                made = [call_id for of, call_id in unknown if of == execution_id]
                await calls.hand_over(group_id, made, relative)
        await calls.leave(gateway_calls.c.group_id == group_id, gateway_calls.c.execution_id.in_(continued))
        return deleted.rowcount

    async def _relative(self, group_id: str, execution_id: str, resumed_from: str) -> str | None:
        """Return an execution that continues the same one as another, is continued by it or continues it."""
        related = [execution_id, *filter(None, [resumed_from])]
        found: str | None = await self._connection.scalar(
            select(func.min(executions.c.id)).where(
                executions.c.group_id == group_id,
                or_(executions.c.resumed_from.in_(related), executions.c.id.in_(related)),
            )
        )
        return found
