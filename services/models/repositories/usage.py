"""Rows of usage."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.upsert import insert_ignore
from services.models.domain.usage import UsageGrouping, UsageQuery, UsageRecord, UsageSum
from services.models.tables import monthly_costs, usage_records


class UsageRepository:
    """What groups have used."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, records: Sequence[UsageRecord], *, maybe_stored: bool) -> None:
        """Store records and add their cost to their groups' months.

        `maybe_stored` says that an earlier attempt at the same records may have succeeded.
        """
        if maybe_stored:
            ids = select(usage_records.c.id).where(usage_records.c.id.in_([record.id for record in records]))
            stored = set((await self._connection.execute(ids)).scalars())
            records = [record for record in records if record.id not in stored]
        if not records:
            return
        costs: dict[tuple[str, str], float] = defaultdict(float)
        for record in records:
            if record.usage.cost:
                costs[record.group_id, _month(record.called_at)] += record.usage.cost
        await self._connection.execute(insert(usage_records), [_columns(record) for record in records])
        # In one order everywhere: transactions of several replicas never wait for each other in a circle.
        for (group_id, month), cost in sorted(costs.items()):
            await self._add_cost(group_id, month, cost)

    async def _add_cost(self, group_id: str, month: str, cost: float) -> None:
        of_month = (monthly_costs.c.group_id == group_id, monthly_costs.c.month == month)
        addition = update(monthly_costs).where(*of_month).values(cost=monthly_costs.c.cost + cost)
        if not (await self._connection.execute(addition)).rowcount:
            await insert_ignore(self._connection, monthly_costs, {"group_id": group_id, "month": month, "cost": 0.0})
            await self._connection.execute(addition)

    async def sums(self, group_id: str, query: UsageQuery) -> list[UsageSum]:
        """Return sums of a group's records in the order of their keys."""
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
        return [
            UsageSum(row.key, row.calls, int(row.input_tokens), int(row.output_tokens), float(row.cost))
            for row in await self._connection.execute(statement)
        ]


async def read_monthly_cost(database: Database, group_id: str, moment: datetime) -> float:
    """Return the US dollars a group has spent in the month of `moment`.

    Every call of a group with a limit on its cost asks: one statement needs no transaction.
    """
    rows = await database.fetch(
        select(monthly_costs.c.cost).where(
            monthly_costs.c.group_id == group_id, monthly_costs.c.month == _month(moment)
        )
    )
    return float(rows[0]["cost"]) if rows else 0.0


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
