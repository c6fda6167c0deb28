"""Rows of usage."""

import functools
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Insert, case, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.sums import SumStatements, within
from services.models.domain.budget import Period, Scope, Sums
from services.models.domain.usage import CREW_LABEL, Usage, UsageGrouping, UsageQuery, UsageRecord, UsageSum
from services.models.tables import usage_days, usage_records

_INSERTION = insert(usage_records)
_DAY_KEYS = ("group_id", "day", "model", "subject")


class UsageRepository:
    """What groups have used."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, records: Sequence[UsageRecord], *, maybe_stored: bool) -> None:
        """Store records and add them to the days of their groups, models and subjects.

        `maybe_stored` says that an earlier attempt at the same records may have succeeded.
        """
        if maybe_stored:
            ids = select(usage_records.c.id).where(usage_records.c.id.in_([record.id for record in records]))
            stored = set((await self._connection.execute(ids)).scalars())
            records = [record for record in records if record.id not in stored]
        if not records:
            return
        days: dict[tuple[str, str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])
        for record in records:
            day = days[record.group_id, Period.DAY.of(record.called_at), record.model, record.subject]
            day[0] += record.usage.input_tokens + record.usage.output_tokens
            day[1] += record.usage.cost
        await self._connection.execute(_INSERTION, [_columns(record) for record in records])
        # In one order everywhere: transactions of several replicas never wait for each other in a circle.
        rows = [
            dict(zip(_DAY_KEYS, key, strict=True)) | {"tokens": tokens, "cost": cost}
            for key, (tokens, cost) in sorted(days.items())
        ]
        await self._connection.execute(_addition(on_postgres=self._on_postgres), rows)

    async def sums(self, group_id: str, query: UsageQuery, after: Sequence[str] | None, limit: int) -> list[UsageSum]:
        """Return sums of a group's records in the order of their keys, those after the keys `after`."""
        columns, statements = usage_records.c, SumStatements(self._connection)
        conditions = [columns.group_id == group_id, *within(columns.called_at, query.start, query.end)]
        for name in ("execution_id", "model", "subject"):
            if wanted := getattr(query, name):
                conditions.append(columns[name] == wanted)
        for label, value in query.labels.items():
            conditions.append(statements.label(columns.labels, label) == value)
        keys = [_key(statements, grouping, query.label_key) for grouping in query.group_by]
        summed = {name: columns[name] for name in _SUMMED} | {"estimated_calls": case((columns.estimated, 1), else_=0)}
        statement = statements.select(keys, summed, conditions, after, limit)
        return [
            UsageSum(
                keys=tuple(row[: len(query.group_by)]),
                calls=row.calls,
                usage=Usage(
                    input_tokens=int(row.input_tokens),
                    output_tokens=int(row.output_tokens),
                    reasoning_tokens=int(row.reasoning_tokens),
                    cached_input_tokens=int(row.cached_input_tokens),
                    cache_write_input_tokens=int(row.cache_write_input_tokens),
                    cost=float(row.cost),
                ),
                estimated_calls=int(row.estimated_calls),
            )
            for row in await self._connection.execute(statement)
        ]

    @property
    def _on_postgres(self) -> bool:
        return self._connection.dialect.name == "postgresql"


async def read_sums(
    database: Database, group_ids: Sequence[str], moment: datetime
) -> dict[str, dict[Scope, dict[Period, Sums]]]:
    """Return what groups have used by model and subject, in the minute, day and month that `moment` is in.

    Calls of the minute are added up from their records, which are few.
    """
    day, columns = Period.DAY.of(moment), usage_days.c
    today = columns.day == day
    days = await database.fetch(
        select(
            columns.group_id,
            columns.model,
            columns.subject,
            func.sum(columns.cost).label("month_cost"),
            func.sum(columns.tokens).label("month_tokens"),
            func.sum(case((today, columns.cost), else_=0.0)).label("day_cost"),
            func.sum(case((today, columns.tokens), else_=0)).label("day_tokens"),
        )
        .where(
            columns.group_id.in_(group_ids),
            columns.day >= f"{Period.MONTH.of(moment)}-01",
            columns.day <= f"{Period.MONTH.of(moment)}-31",
        )
        .group_by(columns.group_id, columns.model, columns.subject)
    )
    records = usage_records.c
    minutes = await database.fetch(
        select(
            records.group_id,
            records.model,
            records.subject,
            func.sum(records.cost).label("minute_cost"),
            func.sum(records.input_tokens + records.output_tokens).label("minute_tokens"),
        )
        .where(
            records.group_id.in_(group_ids),
            records.called_at >= moment.replace(second=0, microsecond=0),
        )
        .group_by(records.group_id, records.model, records.subject)
    )
    found: dict[str, dict[Scope, dict[Period, Sums]]] = {group_id: {} for group_id in group_ids}
    for row in (*days, *minutes):
        cell = found[row["group_id"]].setdefault(Scope(row["model"], row["subject"]), {})
        for period in Period:
            if f"{period.value}_cost" in row:
                cell[period] = Sums(float(row[f"{period.value}_cost"]), int(row[f"{period.value}_tokens"]))
    return found


def _key(statements: SumStatements, grouping: UsageGrouping, label: str) -> ColumnElement[str]:
    columns = usage_records.c
    match grouping:
        case UsageGrouping.MODEL:
            return columns.model
        case UsageGrouping.EXECUTION:
            return columns.execution_id
        case UsageGrouping.SUBJECT:
            return columns.subject
        case UsageGrouping.CREW:
            return statements.label(columns.labels, CREW_LABEL)
        case UsageGrouping.LABEL:
            return statements.label(columns.labels, label)
        case UsageGrouping.DAY:
            return statements.day(columns.called_at)


@functools.cache
def _addition(*, on_postgres: bool) -> Insert:
    """Return the statement that adds to the days; it is written every few calls, and made only once."""
    dialect = postgresql if on_postgres else sqlite
    addition = dialect.insert(usage_days)
    added: Insert = addition.on_conflict_do_update(
        index_elements=_DAY_KEYS,
        set_={name: usage_days.c[name] + addition.excluded[name] for name in ("tokens", "cost")},
    )
    return added


_SUMMED = (
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cached_input_tokens",
    "cache_write_input_tokens",
    "cost",
)


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
        "cache_write_input_tokens": usage.cache_write_input_tokens,
        "subject": record.subject,
        "labels": dict(record.labels),
    }
