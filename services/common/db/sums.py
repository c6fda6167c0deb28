"""Sums of rows by keys, in pages, the same on both databases."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ColumnElement, Select, collate, func, literal_column, select, tuple_, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection


class SumStatements:
    """Makes statements for one database."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._on_postgres = connection.dialect.name == "postgresql"

    def select(
        self,
        keys: Sequence[ColumnElement[str]],
        summed: Mapping[str, ColumnElement[Any]],
        conditions: Sequence[ColumnElement[bool]],
        after: Sequence[str] | None,
        limit: int,
    ) -> Select[Any]:
        """Select sums of the rows that meet the conditions, in the order of their keys, those after the keys `after`.

        A row of the result has the keys, `calls` (how many rows there are) and the sums by their names.
        """
        # As parameters of the same text, PostgreSQL would not know two expressions to be the same: they get names.
        rows = (
            select(
                *(self._sorted(key).label(f"key{position}") for position, key in enumerate(keys)),
                *(column.label(name) for name, column in summed.items()),
            )
            .where(*conditions)
            .subquery()
        )
        by = [rows.c[f"key{position}"] for position in range(len(keys))]
        statement = select(*by, func.count().label("calls"), *(func.sum(rows.c[name]).label(name) for name in summed))
        if after is not None:
            statement = statement.where(tuple_(*by) > tuple_(*after))
        return statement.group_by(*by).order_by(*by).limit(limit)

    def day(self, column: ColumnElement[datetime]) -> ColumnElement[str]:
        """Return the day in UTC, as in 2026-01-31."""
        if self._on_postgres:
            return func.to_char(func.timezone("UTC", column), literal_column("'YYYY-MM-DD'"))
        return func.strftime(literal_column("'%Y-%m-%d'"), column)

    def label(self, column: ColumnElement[Any], name: str) -> ColumnElement[str]:
        """Return the value of a label in a column that holds a JSON object, "" where there is none."""
        labels = type_coerce(column, JSONB() if self._on_postgres else JSON())
        return func.coalesce(labels[name].as_string(), "")

    def _sorted(self, key: ColumnElement[str]) -> ColumnElement[str]:
        # Rows page in the same order on both databases.
        return collate(key, "C") if self._on_postgres else key


def within(column: ColumnElement[datetime], start: datetime | None, end: datetime | None) -> list[ColumnElement[bool]]:
    """Return the conditions for a time at or after `start` and before `end`; None: there is no bound."""
    conditions = []
    if start is not None:
        conditions.append(column >= start)
    if end is not None:
        conditions.append(column < end)
    return conditions
