"""Writing many rows at once, in the way that is cheapest on each database."""

import functools
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter
from typing import Any, Final

import structlog
from sqlalchemy import ARRAY, ColumnElement, Insert, Table, bindparam, func, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

logger = structlog.get_logger(__name__)

_COPIED: Final = 50
"""Rows from which on COPY takes less than the exchanges around it cost."""
_TAKEN: Final = "23505"
_NOT_SUPPORTED: Final = "0A000"
"""Of COPY into tables with row-level security."""


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
        new = [row for row in rows if row[key] in absent]
        if len(new) >= _COPIED and await _copied(connection, table, new):
            rows = [row for row in rows if row[key] not in absent]
            if not rows:
                return
        # One statement, however many rows: each of its parameters is a column.
        columns = {_parameter(name): [row[name] for row in rows] for name in rows[0]}
        await connection.execute(_replacing(_insert_columns(table, list(rows[0])), table, key, rows[0], own), columns)
        return
    new = [row for row in rows if row[key] in absent]
    # Half of what an insertion that may replace takes.
    await _execute_many(connection, sqlite_insert(table), table, new)
    changed = [row for row in rows if row[key] not in absent]
    await _execute_many(connection, _replacing(sqlite_insert(table), table, key, rows[0], own), table, changed)


async def _copied(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Insert rows by COPY, which takes the driver and the server half of what a statement does.

    Return whether that was possible. Where it was not, as something else has written one of the keys or the table takes
    no COPY, nothing has happened, and a statement may do it.

    Raises:
        DBAPIError: anything else is the matter, as a statement would find.
    """
    names = list(rows[0])
    assert connection.sync_connection is not None
    schemas = connection.sync_connection.get_execution_options().get("schema_translate_map", {})
    driver: Any = (await connection.get_raw_connection()).driver_connection
    values = itemgetter(*names)
    savepoint = await connection.begin_nested()
    try:
        await driver.copy_records_to_table(
            table.name, schema_name=schemas.get(None), columns=names, records=[values(row) for row in rows]
        )
    except Exception as error:
        # Fails where the connection is lost, with what that means to callers.
        await savepoint.rollback()
        state = getattr(error, "sqlstate", None)
        if state is None:
            raise
        if state == _NOT_SUPPORTED:
            _log_not_supported(table.name)
        if state in (_TAKEN, _NOT_SUPPORTED):
            return False
        raise DBAPIError(f"COPY {table.name}", None, error) from error
    await savepoint.commit()
    return True


@functools.cache
def _log_not_supported(table: str) -> None:
    logger.warning("copy_not_supported", table=table)


async def _execute_many(
    connection: AsyncConnection, statement: Insert, table: Table, rows: Sequence[Mapping[str, Any]]
) -> None:
    if len(rows) < _COPIED:
        if rows:
            await connection.execute(statement, [dict(row) for row in rows])
        return
    # SQLAlchemy would look at each value of each row: only some columns have values that have to be turned.
    dialect = connection.dialect
    compiled = statement.compile(dialect=dialect, column_keys=list(rows[0]))
    columns: list[Sequence[Any]] = []
    for name in compiled.positiontup or ():
        if name not in rows[0]:
            # A text of the clause that says whose rows may be replaced.
            columns.append([compiled.params[name]] * len(rows))
            continue
        turn = table.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        values = [row[name] for row in rows]
        columns.append(values if turn is None else list(map(turn, values)))
    await connection.exec_driver_sql(str(compiled), list(zip(*columns, strict=True)))


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
