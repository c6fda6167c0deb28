"""Writing many rows at once, in the way that is cheapest on each database."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Insert, Table, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection


async def write_rows(
    connection: AsyncConnection,
    table: Table,
    key: str,
    rows: Sequence[Mapping[str, Any]],
    absent: AbstractSet[str],
    own: ColumnElement[bool],
) -> None:
    """Insert rows of the same columns, or replace those with the same `key`, which is unique among `rows`.

    `absent` has keys that the table does not have, for as long as the transaction lasts. What is not one's `own` is
    never replaced.
    """
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        # One statement, however many rows: each of its parameters is a column.
        columns = {_parameter(name): [row[name] for row in rows] for name in rows[0]}
        await connection.execute(_replacing(_insert_columns(table, list(rows[0])), table, key, rows[0], own), columns)
        return
    new = [dict(row) for row in rows if row[key] in absent]
    if new:
        # Half of what an insertion that may replace takes.
        await connection.execute(sqlite_insert(table), new)
    if len(new) < len(rows):
        changed = [dict(row) for row in rows if row[key] not in absent]
        await connection.execute(_replacing(sqlite_insert(table), table, key, rows[0], own), changed)


def _replacing(statement: Any, table: Table, key: str, row: Mapping[str, Any], own: ColumnElement[bool]) -> Insert:
    replaced = {name: statement.excluded[name] for name in row if name != key}
    result: Insert = statement.on_conflict_do_update(index_elements=[table.c[key]], set_=replaced, where=own)
    return result


def _insert_columns(table: Table, names: Sequence[str]) -> Insert:
    columns = (bindparam(_parameter(name), type_=ARRAY(table.c[name].type)) for name in names)
    rows = func.unnest(*columns).table_valued(*names, name="given").render_derived()
    return postgresql_insert(table).from_select(list(names), select(*rows.c))


def _parameter(name: str) -> str:
    return f"given_{name}"
