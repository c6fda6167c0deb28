"""Records as ChromaDB's metadata, and back."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from services.memory import filters
from services.memory.domain.copies import identity_of
from services.memory.domain.expiry import HOUR_US, expires_us
from services.memory.domain.filters import Filter
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.rows.building import build_row
from services.memory.rows.columns import Column, DatabricksIndexSchemas, has_column
from services.memory.rows.foreign import note_foreign_row
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import Row, created_of, row_expires_at, row_owner, typed_row
from services.memory.rows.values import format_time, parse_boolean, read_integer

ROWS_IN_CHUNK = 2000
_NEVER = 1 << 62
CREATED, EXPIRES, IDENTITY = "created_us", "expires_us", "identity"
"""What a row has beside its columns: times in microseconds, and what decides whether it is the same memory."""


def metadata_of(key: NamespaceKey, record: Record, embedding_model: str) -> dict[str, Any]:
    """Return a record's row as ChromaDB's metadata, which take texts, numbers and truth values."""
    assert record.created_at is not None
    created = microseconds(record.created_at)
    ends = expires_us(record)
    row: dict[str, Any] = {
        CREATED: created,
        EXPIRES: _NEVER if ends is None else min(ends, _NEVER),
        IDENTITY: identity_of(record),
    }
    for name, value in build_row(key, record, embedding_model).items():
        if name != Column.EMBEDDING:
            # An upsert keeps what it is not given: what is absent is said so.
            row[name] = "" if value is None else format_time(value) if isinstance(value, datetime) else value
    return row


def rows_of(answer: Any, key: NamespaceKey) -> list[Row]:
    """Return rows with every column of the kind. No directory should hold one of another owner."""
    vectors = answer.get("embeddings")
    rows: list[Row] = []
    for position, metadata in enumerate(answer["metadatas"]):
        row = _completed(answer["ids"][position], metadata or {}, key.kind)
        by_crew = has_column(key.kind, Column.CREW_ID)
        if row[Column.GROUP_ID] != key.group_id or (by_crew and row[Column.CREW_ID] != key.memory_id):
            note_foreign_row(key.kind)
            continue
        if vectors is not None:
            row[Column.EMBEDDING] = np.asarray(vectors[position], dtype=np.float32)
        rows.append(row)
    return rows


def _completed(stored_id: str, metadata: Mapping[str, Any], kind: MemoryKind) -> dict[str, Any]:
    """Return a row with every column, and the times this store sorts by, also where something else has written it."""
    names = (name for name in DatabricksIndexSchemas.get_schema(kind) if name != Column.EMBEDDING)
    row = typed_row(kind, {name: metadata.get(name) for name in names}) | {Column.ID: stored_id}
    created = created_of(row)
    row[CREATED] = 0 if created is None else microseconds(created)
    row[IDENTITY] = metadata.get(IDENTITY)
    ends = row_expires_at(kind, row)
    row[EXPIRES] = _NEVER if ends is None else microseconds(ends)
    if kind is MemoryKind.SHORT_TERM and created and (hours := read_integer(row[Column.TTL_HOURS], bits=32)) > 0:
        row[EXPIRES] = min(row[EXPIRES], row[CREATED] + hours * HOUR_US)
    return row


def row_chunks(collection: Any, key: NamespaceKey, *, embeddings: bool) -> Iterator[list[Row]]:
    include = ["metadatas", "embeddings"] if embeddings else ["metadatas"]
    offset = 0
    while True:
        answer = collection.get(limit=ROWS_IN_CHUNK, offset=offset, include=include)
        rows = rows_of(answer, key)
        if rows:
            yield rows
        if len(answer["ids"]) < ROWS_IN_CHUNK:
            return
        offset += len(answer["ids"])


def keys_of(key: NamespaceKey, ids: Iterable[str]) -> list[str]:
    """Return the primary keys that records of these ids can have: our own, and the ids themselves."""
    return list(dict.fromkeys(stored_id for own in ids for stored_id in (key.stored_id(own), own)))


def owner_of(key: NamespaceKey, row: Row) -> str | None:
    return row_owner(row) if key.kind is MemoryKind.UNIFIED and parse_boolean(row[Column.PRIVATE]) else None


def identity_in(key: NamespaceKey, row: Row) -> str:
    # Rows of earlier versions, and those that something else has written, have none.
    record = None if row.get(IDENTITY) else RecordReader(key.kind, "chroma").read(row)
    return str(row.get(IDENTITY) or (identity_of(record) if record else ""))


def passes(kind: MemoryKind, chosen: Filter, row: Row, now: datetime) -> bool:
    if row[EXPIRES] <= microseconds(now):
        return False
    return filters.within_times(chosen, row[CREATED]) and filters.matches(kind, chosen, row)


def sort_key(row: Row) -> tuple[int, str]:
    return row[CREATED], row[Column.ID]
