"""Rows of budgets and of the calls counted against them."""

from sqlalchemy import case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.upsert import insert_ignore, insert_or_update
from services.models.domain.usage import Budget
from services.models.tables import budgets, call_counts


class BudgetRepository:
    """Limits of groups, and the calls of groups that have a limit on them."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def set(self, group_id: str, budget: Budget) -> None:
        """Replace a group's limits."""
        limits = {"monthly_cost_limit": budget.monthly_cost_limit, "calls_per_minute": budget.calls_per_minute}
        row = {"group_id": group_id, "updated_at": utc_now(), **limits}
        await insert_or_update(self._connection, budgets, row, key=("group_id",), update=("updated_at", *limits))

    async def count_call(self, group_id: str, minute: int) -> int:
        """Count one more call of a group in a minute (since the epoch) and return how many there are."""
        counted = case((call_counts.c.minute == minute, call_counts.c.calls + 1), else_=1)
        statement = (
            update(call_counts)
            .where(call_counts.c.group_id == group_id)
            .values(minute=minute, calls=counted)
            .returning(call_counts.c.calls)
        )
        calls = (await self._connection.execute(statement)).scalar_one_or_none()
        if calls is None:
            await insert_ignore(self._connection, call_counts, {"group_id": group_id, "minute": minute, "calls": 0})
            calls = (await self._connection.execute(statement)).scalar_one()
        return int(calls)


async def read_budget(database: Database, group_id: str) -> Budget:
    """Return a group's limits.

    Every call of a model asks: as one statement it takes a quarter of the exchanges of a transaction.
    """
    rows = await database.fetch(select(budgets).where(budgets.c.group_id == group_id))
    return Budget(rows[0]["monthly_cost_limit"], rows[0]["calls_per_minute"]) if rows else Budget()
