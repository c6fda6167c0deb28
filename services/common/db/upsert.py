"""INSERT ... ON CONFLICT in the dialect of the connection."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


def _insert(connection: AsyncConnection, table: Table, values: Mapping[str, Any]) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).values(**values)


async def insert_ignore(connection: AsyncConnection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row and return whether it was new: a row that breaks any unique constraint is left out."""
    result = await connection.execute(_insert(connection, table, values).on_conflict_do_nothing())
    return bool(result.rowcount)


async def insert_missing(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, at least one and all of the same columns, but for those that break a unique constraint."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    await connection.execute(dialect.insert(table).on_conflict_do_nothing(), [dict(row) for row in rows])


async def insert_or_update(
    connection: AsyncConnection,
    table: Table,
    values: Mapping[str, Any],
    *,
    key: tuple[str, ...],
    update: tuple[str, ...],
) -> Row[Any]:
    """Insert a row, or change the columns `update` of the row that has the same `key`; return it as it then stands."""
    statement = _insert(connection, table, values)
    result = await connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(key), set_={name: statement.excluded[name] for name in update}
        ).returning(*table.c)
    )
    return result.one()


async def insert_or_replace(
    connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]], *, key: tuple[str, ...]
) -> None:
    """Insert rows, at least one and all of the same columns, each in place of the one that has the same `key`.

    Of several rows of one key, the last one stays.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    replaced = {name: statement.excluded[name] for name in rows[0] if name not in key}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=list(key), set_=replaced), [dict(row) for row in rows]
    )


async def insert_or_raise(
    connection: AsyncConnection, table: Table, values: Mapping[str, Any], *, key: tuple[str, ...], rising: str
) -> bool:
    """Insert a row, or put it in place of the one that has the same `key` and less in the column `rising`.

    Return whether it was stored.
    """
    statement = _insert(connection, table, values)
    replaced = {name: statement.excluded[name] for name in values if name not in key}
    result = await connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(key), set_=replaced, where=table.c[rising] < statement.excluded[rising]
        )
    )
    return bool(result.rowcount)


async def insert_or_add(
    connection: AsyncConnection, table: Table, values: Mapping[str, Any], *, key: tuple[str, ...], add: tuple[str, ...]
) -> Row[Any]:
    """Insert a row, or add to the columns `add` of the row that has the same `key`; return it as it then stands."""
    statement = _insert(connection, table, values)
    sums = {name: table.c[name] + statement.excluded[name] for name in add}
    result = await connection.execute(
        statement.on_conflict_do_update(index_elements=list(key), set_=sums).returning(*table.c)
    )
    return result.one()
