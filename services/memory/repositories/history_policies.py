"""For how long groups keep former versions of records."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.upsert import insert_or_update
from services.memory.tables import history_policies


class HistoryPolicyRepository:
    """The policies of groups that have set one."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def days(self, group_id: str) -> int | None:
        """Return the days of a group; None when it follows the default."""
        statement = select(history_policies.c.days).where(history_policies.c.group_id == group_id)
        days: int | None = await self._connection.scalar(statement)
        return days

    async def set(self, group_id: str, days: int, now: datetime) -> None:
        """Set the days of a group."""
        row = {"group_id": group_id, "days": days, "updated_at": now}
        await insert_or_update(
            self._connection, history_policies, row, key=("group_id",), update=("days", "updated_at")
        )

    async def delete(self, group_id: str) -> None:
        """Let a group follow the default."""
        await self._connection.execute(delete(history_policies).where(history_policies.c.group_id == group_id))

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, int]]:
        """Return groups after one and their days, in the order of their ids."""
        statement = select(history_policies.c.group_id, history_policies.c.days).where(
            history_policies.c.group_id > after
        )
        rows = await self._connection.execute(statement.order_by(history_policies.c.group_id).limit(limit))
        return [(row.group_id, row.days) for row in rows]
