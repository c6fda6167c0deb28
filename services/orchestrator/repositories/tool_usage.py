"""Rows of what calls of tools have used."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, case
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.sums import SumStatements, within
from services.common.db.upsert import insert_or_replace, insert_or_update
from services.orchestrator.domain.tool_usage import (
    ToolCallOutcome,
    ToolUsageGrouping,
    ToolUsageQuery,
    ToolUsageRecord,
    ToolUsageSum,
)
from services.orchestrator.tables import tool_usage

_SUMMED = ("seconds", "argument_bytes", "result_bytes", "cost")
_COUNTED = (ToolCallOutcome.FAILED, ToolCallOutcome.REFUSED, ToolCallOutcome.UNKNOWN, ToolCallOutcome.CANCELLED)


class ToolUsageRepository:
    """What groups have used of tools."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, records: Sequence[ToolUsageRecord]) -> None:
        """Store calls, at least one, in place of what their executions knew of them; of several of one id, the last."""
        rows = [_columns(record) for record in records]
        await insert_or_replace(self._connection, tool_usage, rows, key=("id", "execution_id"))

    async def settle(self, record: ToolUsageRecord) -> None:
        """Store what has come of a call that was made before; when, and how long it took, stays if it is known."""
        await insert_or_update(
            self._connection,
            tool_usage,
            _columns(record),
            key=("id", "execution_id"),
            update=("outcome", "result_bytes", "cost"),
        )

    async def sums(
        self, group_id: str, query: ToolUsageQuery, after: Sequence[str] | None, limit: int
    ) -> list[ToolUsageSum]:
        """Return sums of a group's calls in the order of their keys, those after the keys `after`."""
        columns, statements = tool_usage.c, SumStatements(self._connection)
        conditions = [columns.group_id == group_id, *within(columns.called_at, query.start, query.end)]
        for name in ("tool", "source", "crew", "execution_id", "subject"):
            if wanted := getattr(query, name):
                conditions.append(columns[name] == wanted)
        if query.outcome is not ToolCallOutcome.UNSPECIFIED:
            conditions.append(columns.outcome == query.outcome)
        for label, value in query.labels.items():
            conditions.append(statements.label(columns.labels, label) == value)
        keys = [_key(statements, grouping, query.label_key) for grouping in query.group_by]
        summed: dict[str, ColumnElement[Any]] = {name: columns[name] for name in _SUMMED}
        summed |= {f"{outcome}_calls": case((columns.outcome == outcome, 1), else_=0) for outcome in _COUNTED}
        statement = statements.select(keys, summed, conditions, after, limit)
        return [
            ToolUsageSum(
                keys=tuple(row[: len(keys)]),
                calls=row.calls,
                outcomes={outcome: int(getattr(row, f"{outcome}_calls")) for outcome in _COUNTED},
                seconds=float(row.seconds),
                argument_bytes=int(row.argument_bytes),
                result_bytes=int(row.result_bytes),
                cost=float(row.cost),
            )
            for row in await self._connection.execute(statement)
        ]


def _columns(record: ToolUsageRecord) -> dict[str, Any]:
    columns = {each.name: getattr(record, each.name) for each in fields(record)}
    return columns | {"labels": dict(record.labels)}


def _key(statements: SumStatements, grouping: ToolUsageGrouping, label: str) -> ColumnElement[str]:
    columns = tool_usage.c
    match grouping:
        case ToolUsageGrouping.EXECUTION:
            return columns.execution_id
        case ToolUsageGrouping.DAY:
            return statements.day(columns.called_at)
        case ToolUsageGrouping.LABEL:
            return statements.label(columns.labels, label)
        case _:
            return columns[grouping]
