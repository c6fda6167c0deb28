"""What the code of the release before this one says to a database, as statements over its own tables."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    and_,
    delete,
    false,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

Row = dict[str, Any]

_UNBOUNDED_TEXT = 100


def insert_rows(connection: Connection, tables: MetaData) -> None:
    """Insert two rows into every table: one with all it may have, one with what it must have.

    Values are as long and as large as their columns allow.
    """
    for table in tables.sorted_tables:
        for row in _rows_of(table, connection.dialect):
            connection.execute(insert(table), row)


def use_rows(connection: Connection, tables: MetaData) -> None:
    """Change, read and delete the rows of every table.

    Raises:
        AssertionError: a row is not there, or does not come back as it was written.
        DBAPIError: the database refuses a statement.
    """
    for table in tables.sorted_tables:
        for row in _rows_of(table, connection.dialect):
            connection.execute(update(table).where(_is(table, row)), row)
            (found,) = connection.execute(select(table).where(_is(table, row))).mappings()
            assert row.items() <= {**found}.items(), f"{table.name}: {row} came back as {found}"
        _upsert_nothing_by_every_key(connection, table)
    for table in reversed(tables.sorted_tables):
        for row in _rows_of(table, connection.dialect):
            connection.execute(delete(table).where(_is(table, row)))


def _is(table: Table, row: Row) -> ColumnElement[bool]:
    return and_(*(column == row[column.name] for column in table.primary_key))


def _rows_of(table: Table, dialect: Dialect) -> list[Row]:
    """Return rows that meet the foreign keys of each other, of all tables."""
    full = {column.name: _value(column, 0, dialect) for column in table.c}
    bare = {column.name: _value(column, 1, dialect) for column in table.c if _is_required(column)}
    return [full, bare]


def _is_required(column: Column[Any]) -> bool:
    return column.primary_key or (not column.nullable and column.server_default is None)


def _value(column: Column[Any], row: int, dialect: Dialect) -> Any:
    for key in column.foreign_keys:
        return _value(key.column, row, dialect)
    kind: Any = column.type.dialect_impl(dialect)
    if isinstance(kind, TypeDecorator):
        if isinstance(kind.impl_instance, Integer):
            # The numbers of our own types stand for the members of an enum, from 1.
            return kind.process_result_value(1 + row, dialect)
        kind = kind.impl_instance
    for base, value in _VALUES.items():
        if isinstance(kind, base):
            return value(kind, row)
    raise NotImplementedError(f"{column}: no value of type {kind!r}")


_VALUES: dict[type[Any], Callable[[Any, int], Any]] = {
    String: lambda kind, row: "ab"[row] * (kind.length or _UNBOUNDED_TEXT),
    postgresql.TSVECTOR: lambda _, row: f"'{'ab'[row]}'",
    BigInteger: lambda _, row: 2**63 - 1 - row,
    Integer: lambda _, row: 2**31 - 1 - row,
    Float: lambda _, row: 1e300 + row * 1e290,
    # At most one row may be the one that a flag marks.
    Boolean: lambda _, row: row == 0,
    DateTime: lambda kind, row: datetime(2026, 1, 1 + row, 1, 2, 3, 456789, tzinfo=UTC if kind.timezone else None),
    JSON: lambda _, row: {"row": row},
    LargeBinary: lambda _, row: bytes([row]) * _UNBOUNDED_TEXT,
}


def _upsert_nothing_by_every_key(connection: Connection, table: Table) -> None:
    """Say ON CONFLICT for each key, which needs a unique index of just its columns."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    conditions = {
        tuple(index.columns.keys()): index.dialect_options[connection.dialect.name]["where"]
        for index in table.indexes
        if index.unique
    }
    keys = [table.primary_key, *(c for c in table.constraints if isinstance(c, UniqueConstraint))]
    nothing = dialect.insert(table).from_select(list(table.c.keys()), select(table).where(false()))
    for columns, condition in ({tuple(key.columns.keys()): None for key in keys} | conditions).items():
        connection.execute(nothing.on_conflict_do_nothing(index_elements=columns, index_where=condition))
