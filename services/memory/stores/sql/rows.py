"""Records to rows of the default store and back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Row as DatabaseRow

from services.memory.domain import EmbeddingSpace, MemoryKind, NamespaceKey, Record, ShortTerm, microseconds
from services.memory.schemas import Column, Row, build_row, has_column, parse_row
from services.memory.stores.sql.vectors import VectorBlock
from services.memory.tables import records

_log = structlog.get_logger(__name__)


def stored_row(
    key: NamespaceKey, space: EmbeddingSpace, record: Record, version: int, created: datetime
) -> dict[str, Any]:
    """Return the row of a record that the write of a version stores."""
    record.created_at = created
    row = build_row(key, record, space.model)
    row[Column.EMBEDDING] = row[Column.EMBEDDING].astype("<f4", copy=False).tobytes()
    lifetime_us = record.body.ttl_hours * 3_600_000_000 if isinstance(record.body, ShortTerm) else None
    return row | {
        "namespace_id": key.id,
        "created_us": microseconds(created),
        "expires_us": None if lifetime_us is None else microseconds(created) + lifetime_us,
        "written_version": version,
    }


def parse_rows(key: NamespaceKey, rows: Sequence[Row]) -> dict[str, Record]:
    """Return records by their stored ids, in the order of the rows; each is checked again to be the namespace's own."""
    for row in rows:
        if row[Column.GROUP_ID] != key.group_id or row.get(Column.CREW_ID, key.crew_id) != key.crew_id:
            _log.critical("a statement returned a row of another owner", kind=key.kind.name)
            raise AssertionError("a statement returned a row of another owner")
    return {row[Column.ID]: parse_row(key.kind, row) for row in rows}


def vector_columns(kind: MemoryKind) -> list[ColumnElement[Any]]:
    """Return the columns of a table that `vector_block` takes, in its order."""
    return [records[kind].c[name] for name in _vector_names(kind)]


def vector_block(kind: MemoryKind, rows: Sequence[DatabaseRow[Any]], dimension: int) -> VectorBlock:
    """Return rows of `vector_columns`, whatever columns may follow those, as arrays."""
    columns = dict(zip(_vector_names(kind), zip(*rows, strict=True), strict=False))
    return VectorBlock.of(
        dimension,
        ids=columns.get(Column.ID, ()),
        embeddings=columns.get(Column.EMBEDDING, ()),
        created_us=columns.get("created_us", ()),
        expires_us=columns.get("expires_us", ()),
        importance=columns.get(Column.IMPORTANCE, ()),
        private=columns.get(Column.PRIVATE, ()),
        sources=columns.get(Column.SOURCE, ()),
        scopes=columns.get(Column.SCOPE, ()),
    )


def _vector_names(kind: MemoryKind) -> list[str]:
    names = [Column.ID, Column.EMBEDDING, "created_us", "expires_us"]
    if has_column(kind, Column.IMPORTANCE):
        names.append(Column.IMPORTANCE)
    if kind is MemoryKind.UNIFIED:
        names += [Column.PRIVATE, Column.SOURCE, Column.SCOPE]
    return names
