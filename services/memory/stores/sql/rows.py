"""Records to rows of the default store and back."""

import functools
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import structlog
from sqlalchemy import ColumnElement, select, type_coerce
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import NullType

from services.memory.domain.expiry import expires_us
from services.memory.domain.listings import BYTES_AT_ONCE
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import owner_of
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.rows.building import build_row
from services.memory.rows.columns import Column, has_column
from services.memory.rows.foreign import note_foreign_row
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import Row
from services.memory.stores.sql.blocks import VectorBlock
from services.memory.stores.sql.statements import IDS_IN_STATEMENT, named, owned_among, row_columns
from services.memory.tables import records

logger = structlog.get_logger(__name__)

RECORDS_AT_ONCE = 50
"""Whole records read before it is known how long they are."""
_VECTOR = itemgetter(1)
"""The vector of a row that begins with `vector_columns`."""


def stored_row(key: NamespaceKey, space: EmbeddingSpace, record: Record, identity: str, version: int) -> dict[str, Any]:
    """Return the row of a record, its time of creation set, that the write of a version stores."""
    assert record.created_at is not None
    row = build_row(key, record, space.model)
    row[Column.EMBEDDING] = row[Column.EMBEDDING].astype("<f4", copy=False).tobytes()
    if key.kind is MemoryKind.UNIFIED:
        row["owner"] = owner_of(record) or ""
    row["namespace_id"] = key.id
    row["created_us"] = microseconds(record.created_at)
    row["expires_us"] = expires_us(record)
    row["written_version"] = version
    row["identity"] = identity
    return row


def parse_rows(key: NamespaceKey, rows: Sequence[Row]) -> dict[str, Record]:
    """Return records by their stored ids, in the order of the rows; each is checked again to be the namespace's own.

    A row that is no record, as something else has written it, is left out.
    """
    rows = [row for row in rows if _is_own(key, row)]
    reader = RecordReader(key.kind, "default")
    records = ((row[Column.ID], reader.read(row)) for row in rows)
    return {stored_id: record for stored_id, record in records if record is not None}


def _is_own(key: NamespaceKey, row: Row) -> bool:
    """Return whether a row is the namespace's; one that is not was not asked for, and is dropped."""
    if row[Column.GROUP_ID] == key.group_id and row.get(Column.CREW_ID, key.memory_id) == key.memory_id:
        return True
    note_foreign_row(key.kind)
    return False


async def read_records(
    connection: AsyncConnection,
    key: NamespaceKey,
    ids: Sequence[str],
    *,
    embeddings: bool,
    clauses: Sequence[ColumnElement[bool]] = (),
    at_once: int | None = None,
    most_bytes: int | None = None,
) -> tuple[dict[str, Record], int]:
    """Return the records there are of stored ids, and how many ids were looked up before `most_bytes` were read.

    The first `at_once` are read whatever they have; they tell how many more to read. By default these are
    RECORDS_AT_ONCE and BYTES_AT_ONCE.
    """
    table = records[key.kind]
    most = most_bytes or BYTES_AT_ONCE
    found: dict[str, Record] = {}
    looked_up, size, portion = 0, 0, at_once or RECORDS_AT_ONCE
    while looked_up < len(ids) and size < most:
        part = ids[looked_up : looked_up + portion]
        statement = select(*row_columns(table, embeddings=embeddings)).where(owned_among(table, key, part), *clauses)
        rows = [named(row) for row in await connection.execute(statement)]
        size += sum(len(value) for row in rows for value in row.values() if isinstance(value, str | bytes))
        found |= parse_rows(key, rows)
        looked_up += len(part)
        portion = min(IDS_IN_STATEMENT, max(1, (most - size) * looked_up // (size + 1)))
    return found, looked_up


@functools.cache
def _plain_columns(kind: MemoryKind) -> Sequence[ColumnElement[Any]]:
    return [type_coerce(records[kind].c[name], NullType()).label(name) for name in _vector_names(kind)]


def vector_columns(kind: MemoryKind) -> list[ColumnElement[Any]]:
    """Return the columns of a table that `vector_block` takes, in its order, as the database gives them.

    SQLAlchemy would look at each value of thousands of rows.
    """
    return list(_plain_columns(kind))


def vector_block(kind: MemoryKind, rows: Sequence[Sequence[Any]], dimension: int) -> VectorBlock:
    """Return rows that begin with `vector_columns` as arrays.

    Rows whose vector is none of so many finite numbers are left out and counted: nothing can be compared with them.
    """
    vectors = map(_VECTOR, rows)
    usable = [
        row
        for row, vector in zip(rows, vectors, strict=True)
        if isinstance(vector, bytes) and len(vector) == 4 * dimension
    ]
    block = _vector_block(kind, usable, dimension)
    if not np.isfinite(block.matrix).all():
        usable = [usable[position] for position in np.flatnonzero(np.isfinite(block.matrix).all(axis=1))]
        block = _vector_block(kind, usable, dimension)
    if len(usable) < len(rows):
        RecordReader(kind, "default").leave_out(len(rows) - len(usable), "its vector cannot be read")
    return block


def _vector_block(kind: MemoryKind, rows: Sequence[Sequence[Any]], dimension: int) -> VectorBlock:
    columns = dict(zip(_vector_names(kind), zip(*rows, strict=True), strict=False))
    return VectorBlock.of(
        dimension,
        ids=columns.get(Column.ID, ()),
        embeddings=columns.get(Column.EMBEDDING, ()),
        created_us=columns.get("created_us", ()),
        expires_us=columns.get("expires_us", ()),
        importance=columns.get(Column.IMPORTANCE, ()),
        private=columns.get(Column.PRIVATE, ()),
        scopes=columns.get(Column.SCOPE, ()),
    )


def _vector_names(kind: MemoryKind) -> list[str]:
    names = [Column.ID, Column.EMBEDDING, "created_us", "expires_us"]
    if has_column(kind, Column.IMPORTANCE):
        names.append(Column.IMPORTANCE)
    if kind is MemoryKind.UNIFIED:
        names += [Column.PRIVATE, Column.SCOPE]
    return names
