"""The statements of the default store; every one of them names whose rows it means."""

import asyncio
import contextlib
import functools
import json
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    String,
    Table,
    and_,
    any_,
    bindparam,
    delete,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Row as DatabaseRow
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.memory.domain.filters import Comparison, Filter
from services.memory.domain.json_equality import holds_number
from services.memory.domain.listings import ListPosition
from services.memory.domain.metadata import canonical_json
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import Column, DatabricksIndexSchemas, has_column, metadata_column
from services.memory.rows.row import Row
from services.memory.stores.sql.comparisons import compare, holds_text, narrowed
from services.memory.tables import namespaces, record_words, records

ROWS_IN_CHUNK: Final = 4096
VECTORS_IN_CHUNK: Final = 1024
"""Rows read at once with their vectors: about as many as stay in the processor's cache until they are arrays."""
TEXTS_IN_CHUNK: Final = 256
"""Rows read at once with columns that may be long: contents are up to 1 MiB each."""
IDS_IN_STATEMENT: Final = 500
"""Well below the number of parameters any of the databases takes."""
NAMESPACE_VERSION: Final = "namespace_version"
REMOVAL_VERSION: Final = "namespace_removal_version"
DIMENSION: Final = "namespace_dimension"
WRITTEN: Final = "row_written_version"
WINNERS: Final = "winners"
SINCE: Final = "since"
CHANGES_LIMIT: Final = "changes_limit"
_UNREAD: Final = frozenset({Column.EMBEDDING_MODEL, "version"})
"""Columns that say nothing of a record."""
_NAMESPACE, _GROUP, _CREW = "owner_namespace", "owner_group", "owner_crew"

Item = TypeVar("Item")


def owned(table: Table, key: NamespaceKey) -> ColumnElement[bool]:
    """Return the clause that holds for the rows of a namespace and for no others."""
    return and_(table.c.namespace_id == key.id, _owned(table, key.kind, owner_parameters(key)))


def owned_among(table: Table, key: NamespaceKey, ids: Sequence[str]) -> ColumnElement[bool]:
    """Return the clause that holds for those rows of a namespace that have one of the stored ids.

    It does not name the namespace's id, which group and crew decide in each table: SQLite would rather go through the
    index of the whole namespace than look the ids up.
    """
    return and_(table.c[Column.ID].in_(ids), _owned(table, key.kind, owner_parameters(key)))


def looked_up(table: Table, key: NamespaceKey, ids: Sequence[str], dialect: str) -> ColumnElement[bool]:
    """Return the clause of `owned_among` in the way that is cheapest for hundreds of ids."""
    if dialect == "sqlite":
        return owned_among(table, key, ids)
    # One parameter: a list of them would be written, read and planned anew each time.
    given = bindparam("looked_up", list(ids), ARRAY(String()))
    return and_(table.c[Column.ID] == any_(given), _owned(table, key.kind, owner_parameters(key)))


def owner_parameters(key: NamespaceKey) -> dict[str, str]:
    """Return the values of the parameters that say whose rows `winners` means."""
    return {_NAMESPACE: key.id, _GROUP: key.group_id, _CREW: key.memory_id}


def _owned(table: Table, kind: MemoryKind, owner: Mapping[str, Any]) -> ColumnElement[bool]:
    clauses = [table.c[Column.GROUP_ID] == owner[_GROUP]]
    if has_column(kind, Column.CREW_ID):
        clauses.append(table.c[Column.CREW_ID] == owner[_CREW])
    return and_(*clauses)


@functools.cache
def winners(kind: MemoryKind, *, embeddings: bool) -> Select[Any]:
    """Return the statement that reads records by their ids (parameter `WINNERS`) beside their namespace's version.

    It leaves out what no record is made of: SQLite would read on behind the vector for that. See `_by_ids`.
    """
    unread = _UNREAD if embeddings else _UNREAD | {Column.EMBEDDING}
    names = [field.name for field in DatabricksIndexSchemas.get_fields(kind)]
    return _by_ids(kind, [records[kind].c[name] for name in names if name not in unread])


@functools.cache
def winners_vectors(kind: MemoryKind) -> Select[Any]:
    """Return the statement that reads ids and vectors as `winners` reads rows."""
    table = records[kind]
    return _by_ids(kind, [table.c[Column.ID], table.c[Column.EMBEDDING]])


def _by_ids(kind: MemoryKind, columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """Return the statement that reads columns of rows by their ids beside their namespace's version.

    It takes `owner_parameters` too. A namespace without any of the rows is one row of NULLs. To be made once, as making
    it costs as much as executing it.
    """
    table = records[kind]
    owner: dict[str, Any] = {name: bindparam(name) for name in (_NAMESPACE, _GROUP, _CREW)}
    ids = table.c[Column.ID].in_(bindparam(WINNERS, expanding=True))
    return (
        select(namespaces.c.version.label(NAMESPACE_VERSION), *columns)
        .select_from(namespaces.outerjoin(table, and_(_owned(table, kind, owner), ids)))
        .where(namespaces.c.id == owner[_NAMESPACE], namespaces.c.group_id == owner[_GROUP])
    )


@functools.cache
def changes(kind: MemoryKind, *columns: ColumnElement[Any]) -> Select[Any]:
    """Return the statement that reads columns of the rows written after a version (parameter `SINCE`).

    It takes `owner_parameters` and `CHANGES_LIMIT` too. Behind the columns are the version that wrote the row, the
    namespace's, its last removal's and its dimension. A namespace without such rows is one row with the columns NULL.
    """
    table = records[kind]
    owner: dict[str, Any] = {name: bindparam(name) for name in (_NAMESPACE, _GROUP, _CREW)}
    written = and_(
        table.c.namespace_id == owner[_NAMESPACE],
        table.c.written_version > bindparam(SINCE),
        _owned(table, kind, owner),
    )
    return (
        select(
            *columns,
            table.c.written_version.label(WRITTEN),
            namespaces.c.version.label(NAMESPACE_VERSION),
            namespaces.c.removal_version.label(REMOVAL_VERSION),
            namespaces.c.embedding_dimension.label(DIMENSION),
        )
        .select_from(namespaces.outerjoin(table, written))
        .where(namespaces.c.id == owner[_NAMESPACE], namespaces.c.group_id == owner[_GROUP])
        .limit(bindparam(CHANGES_LIMIT))
    )


def row_columns(table: Table, *, embeddings: bool) -> list[ColumnElement[Any]]:
    """Return a row's columns, with or without its vector."""
    return [column for column in table.c if embeddings or column.name != Column.EMBEDDING]


def alive(table: Table, now_us: int) -> ColumnElement[bool]:
    """Return the clause that holds for rows that have not expired."""
    return or_(table.c.expires_us.is_(None), table.c.expires_us > now_us)


def living(key: NamespaceKey, chosen: Filter, now_us: int, dialect: str) -> list[ColumnElement[bool]]:
    """Return clauses that hold for every row the filter asks for that has not expired, and for few others.

    Words, categories and metadata are narrowed down only; `filters.residual` decides them. Whose rows is not said yet.
    """
    table = records[key.kind]
    return [alive(table, now_us), *_filtered(table, key.kind, chosen, dialect)]


def newest_first(
    table: Table,
    columns: Sequence[ColumnElement[Any]],
    clauses: Sequence[ColumnElement[bool]],
    after: ListPosition | None,
    limit: int,
) -> Select[Any]:
    """Return the statement that reads the next rows of a list, newest first, equal times by id."""
    order = (table.c.created_us, table.c[Column.ID])
    statement = select(*columns).where(*clauses)
    if after is not None:
        statement = statement.where(tuple_(*order) < tuple_(after.created, after.stored_id))
    return statement.order_by(*(column.desc() for column in order)).limit(limit)


async def chunks(
    connection: AsyncConnection, statement: Select[Any], rows: int
) -> AsyncGenerator[Sequence[DatabaseRow[Any]]]:
    """Read a result in chunks of so many rows; it is one snapshot however long that takes."""
    result = await connection.stream(statement.execution_options(yield_per=rows))
    async for chunk in result.partitions():
        yield chunk


async def plain_chunks(
    connection: AsyncConnection, statement: Select[Any], rows: int
) -> AsyncGenerator[Sequence[Sequence[Any]]]:
    """Read what `chunks` reads, each chunk while the one before is worked on.

    On SQLite rows and values are as the driver gives them. To be closed by whoever does not read to the end.
    """
    reading = (_driver_chunks if connection.dialect.name == "sqlite" else chunks)(connection, statement, rows)
    async with contextlib.aclosing(reading):
        ahead = asyncio.ensure_future(anext(reading, None))
        try:
            while (chunk := await ahead) is not None:
                ahead = asyncio.ensure_future(anext(reading, None))
                yield chunk
        finally:
            await _end(ahead)


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end, which cancellations do not shorten: what it reads from is closed next."""
    task.cancel()
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if not task.cancelled():
        # Nobody else may ask for it.
        task.exception()
    if cancelled:
        raise asyncio.CancelledError


async def _driver_chunks(
    connection: AsyncConnection, statement: Select[Any], rows: int
) -> AsyncGenerator[Sequence[Sequence[Any]]]:
    driver: Any = (await connection.get_raw_connection()).driver_connection
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
    text, parameters = str(compiled), compiled.params
    try:
        cursor = await driver.execute(text, parameters)
        try:
            while chunk := await cursor.fetchmany(rows):
                yield chunk
        finally:
            await cursor.close()
    except sqlite3.Error as error:
        raise DBAPIError(text, parameters, error) from error


def named(row: DatabaseRow[Any]) -> Row:
    """Return a row's values by the names of its columns."""
    return cast("Row", row._mapping)  # noqa: SLF001 - the documented name of a public attribute


async def delete_some(connection: AsyncConnection, table: Table, clauses: Sequence[ColumnElement[bool]]) -> int:
    """Remove up to `ROWS_IN_CHUNK` of the rows that match, and return how many; fewer means that none is left."""
    some = select(table.c[Column.ID]).where(*clauses).limit(ROWS_IN_CHUNK)
    return len(await delete_rows(connection, table, [table.c[Column.ID].in_(some)]))


async def delete_rows(
    connection: AsyncConnection, table: Table, clauses: Sequence[ColumnElement[bool]]
) -> Sequence[str]:
    """Remove the rows that match, with all that is kept beside them, and return their ids."""
    statement = delete(table).where(*clauses).returning(table.c[Column.ID])
    ids = (await connection.execute(statement)).scalars().all()
    for part in parts(ids, IDS_IN_STATEMENT):
        await connection.execute(delete(record_words).where(record_words.c.record_id.in_(part)))
    return ids


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Split a sequence."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _filtered(table: Table, kind: MemoryKind, chosen: Filter, dialect: str) -> Iterator[ColumnElement[bool]]:
    if kind is MemoryKind.UNIFIED:
        yield from _unified(table, chosen, dialect)
    if chosen.created_before is not None:
        yield table.c.created_us < microseconds(chosen.created_before)
    if chosen.created_after is not None:
        yield table.c.created_us >= microseconds(chosen.created_after)
    for name, text in chosen.metadata.items():
        value = json.loads(text)
        # Numbers may be stored in several spellings, so only their key is looked for.
        part = f"{canonical_json(name)}:" if holds_number(value) else canonical_json({name: value})[1:-1]
        yield holds_text(table.c[metadata_column(kind)], part, dialect)
    if chosen.subject:
        # An owner is written as "subject:" and the subject.
        name = canonical_json(chosen.subject)[1:]
        yield holds_text(table.c[metadata_column(kind)], name, dialect)
    types = DatabricksIndexSchemas.filterable(kind)
    for condition in chosen.conditions:
        if condition.comparison is not Comparison.CONTAINS:
            yield compare(table.c[condition.column], types[condition.column], condition, dialect)
    if chosen.expression is not None:
        clause = narrowed(table, kind, chosen.expression, dialect)
        if clause is not None:
            yield clause


def visible(table: Table, chosen: Filter) -> Iterator[ColumnElement[bool]]:
    """Yield the clause that holds for the unified records whose private ones are there for a filter's caller."""
    if not chosen.include_private:
        public = table.c[Column.PRIVATE].is_(False)
        own = and_(table.c.owner == chosen.owner, *([table.c[Column.SOURCE] == chosen.source] if chosen.source else []))
        yield or_(public, own) if chosen.owner else public


def _unified(table: Table, chosen: Filter, dialect: str) -> Iterator[ColumnElement[bool]]:
    yield from visible(table, chosen)
    if chosen.scope_prefix not in ("", "/"):
        scope, below = table.c[Column.SCOPE], chosen.scope_prefix + "/"
        yield or_(scope == chosen.scope_prefix, func.substr(scope, 1, len(below)) == below)
    if chosen.categories:
        column = table.c[Column.CATEGORIES]
        yield or_(*(holds_text(column, canonical_json(name), dialect) for name in sorted(chosen.categories)))
    for name in sorted(chosen.all_categories):
        yield holds_text(table.c[Column.CATEGORIES], canonical_json(name), dialect)
