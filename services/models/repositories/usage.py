"""Rows of usage and budgets."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Table, case, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from services.common.clock import utc_now
from services.common.db.database import Database
from services.models.domain.usage import Budget, UsageGrouping, UsageQuery, UsageRecord, UsageSum
from services.models.tables import budgets, call_counts, monthly_costs, usage_records


class UsageRepository(Protocol):
    """What groups have used, and their limits."""

    async def add(self, records: Sequence[UsageRecord], *, maybe_stored: bool) -> None:
        """Store records and add their cost to their groups' months.

        `maybe_stored` says that an earlier attempt at the same records may have succeeded.
        """
        ...

    async def sums(self, group_id: str, query: UsageQuery) -> list[UsageSum]:
        """Return sums of a group's records in the order of their keys."""
        ...

    async def monthly_cost(self, group_id: str, moment: datetime) -> float:
        """Return the US dollars a group has spent in the month of `moment`."""
        ...

    async def count_call(self, group_id: str, minute: int) -> int:
        """Count one more call of a group in a minute (since the epoch) and return how many there are."""
        ...

    async def budget(self, group_id: str) -> Budget:
        """Return a group's limits."""
        ...

    async def set_budget(self, group_id: str, budget: Budget) -> None:
        """Replace a group's limits."""
        ...


class SqlUsageRepository:
    """Usage in SQL rows; see `UsageRepository`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, records: Sequence[UsageRecord], *, maybe_stored: bool) -> None:
        """Store records."""
        async with self._database.write() as connection:
            if maybe_stored:
                ids = select(usage_records.c.id).where(usage_records.c.id.in_([record.id for record in records]))
                stored = set((await connection.execute(ids)).scalars())
                records = [record for record in records if record.id not in stored]
            if not records:
                return
            costs: dict[tuple[str, str], float] = defaultdict(float)
            for record in records:
                if record.usage.cost:
                    costs[record.group_id, _month(record.called_at)] += record.usage.cost
            await connection.execute(insert(usage_records), [_columns(record) for record in records])
            # In one order everywhere: transactions of several replicas never wait for each other in a circle.
            for (group_id, month), cost in sorted(costs.items()):
                statement = self._insert(monthly_costs).values(group_id=group_id, month=month, cost=cost)
                await connection.execute(
                    statement.on_conflict_do_update(
                        index_elements=["group_id", "month"], set_={"cost": monthly_costs.c.cost + cost}
                    )
                )

    async def sums(self, group_id: str, query: UsageQuery) -> list[UsageSum]:
        """Return sums."""
        key = usage_records.c.model if query.grouping is UsageGrouping.MODEL else usage_records.c.execution_id
        statement = (
            select(
                key.label("key"),
                func.count().label("calls"),
                func.sum(usage_records.c.input_tokens).label("input_tokens"),
                func.sum(usage_records.c.output_tokens).label("output_tokens"),
                func.sum(usage_records.c.cost).label("cost"),
            )
            .where(usage_records.c.group_id == group_id)
            .group_by(key)
            .order_by(key)
        )
        if query.start is not None:
            statement = statement.where(usage_records.c.called_at >= query.start)
        if query.end is not None:
            statement = statement.where(usage_records.c.called_at < query.end)
        if query.execution_id:
            statement = statement.where(usage_records.c.execution_id == query.execution_id)
        async with self._database.read() as connection:
            return [
                UsageSum(row.key, row.calls, int(row.input_tokens), int(row.output_tokens), float(row.cost))
                for row in await connection.execute(statement)
            ]

    async def monthly_cost(self, group_id: str, moment: datetime) -> float:
        """Return what a month has cost."""
        statement = select(monthly_costs.c.cost).where(
            monthly_costs.c.group_id == group_id, monthly_costs.c.month == _month(moment)
        )
        async with self._database.read() as connection:
            return float((await connection.execute(statement)).scalar_one_or_none() or 0.0)

    async def count_call(self, group_id: str, minute: int) -> int:
        """Count a call."""
        statement = (
            self._insert(call_counts)
            .values(group_id=group_id, minute=minute, calls=1)
            .on_conflict_do_update(
                index_elements=["group_id"],
                set_={
                    "minute": minute,
                    "calls": case((call_counts.c.minute == minute, call_counts.c.calls + 1), else_=1),
                },
            )
            .returning(call_counts.c.calls)
        )
        async with self._database.write() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def budget(self, group_id: str) -> Budget:
        """Return limits."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(budgets).where(budgets.c.group_id == group_id))).one_or_none()
        return Budget() if row is None else Budget(row.monthly_cost_limit, row.calls_per_minute)

    async def set_budget(self, group_id: str, budget: Budget) -> None:
        """Replace limits."""
        values = {
            "monthly_cost_limit": budget.monthly_cost_limit,
            "calls_per_minute": budget.calls_per_minute,
            "updated_at": utc_now(),
        }
        statement = self._insert(budgets).values(group_id=group_id, **values)
        async with self._database.write() as connection:
            await connection.execute(statement.on_conflict_do_update(index_elements=["group_id"], set_=values))

    def _insert(self, table: Table) -> Any:
        """An INSERT that can say what to do on conflict, in the words of the database."""
        return sqlite.insert(table) if self._database.dialect == "sqlite" else postgresql.insert(table)


def _month(moment: datetime) -> str:
    return f"{moment:%Y-%m}"


def _columns(record: UsageRecord) -> dict[str, Any]:
    usage = record.usage
    return {
        "id": record.id,
        "group_id": record.group_id,
        "model": record.model,
        "execution_id": record.execution_id,
        "called_at": record.called_at,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cost": usage.cost,
        "estimated": usage.estimated,
    }
