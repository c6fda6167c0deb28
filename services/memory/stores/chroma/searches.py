"""Searches of one collection: the nearest by ChromaDB's index, or all records compared."""

import hashlib
from datetime import datetime
from typing import Any

import numpy as np

from services.memory.domain.filters import EVERYTHING
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Record
from services.memory.domain.searches import Found, Query, SearchOutcome
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.rows.columns import Column
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import Row
from services.memory.stores.chroma.rows import CREATED, passes, row_chunks, rows_of
from services.memory.stores.sql.blocks import VectorBlock
from services.memory.stores.sql.vectors import nearest

_BLOCK_ID_LENGTH = 64


def query_nearest(collection: Any, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome | None:
    """Find the nearest records; None if one of them has expired, and keeps another out."""
    count = min(query.limit, collection.count())
    if not count:
        return SearchOutcome()
    answer = collection.query(
        query_embeddings=query.vector[None, :], n_results=count, include=["metadatas", "embeddings", "distances"]
    )
    first = {name: answer[name][0] for name in ("ids", "metadatas", "embeddings")}
    rows = {row[Column.ID]: row for row in rows_of(first, key)}
    if not all(passes(key.kind, EVERYTHING, row, now) for row in rows.values()):
        return None
    reader = RecordReader(key.kind, "chroma")
    found = []
    for stored_id, distance in zip(first["ids"], answer["distances"][0], strict=True):
        similarity = max(-1.0, min(1.0, 1.0 - float(distance)))
        record = _shown(reader, rows[stored_id], query) if stored_id in rows else None
        if record is not None and (query.min_score is None or similarity >= query.min_score):
            found.append(Found(record, similarity, similarity))
    return SearchOutcome(found, unreadable=reader.unreadable)


def search_all(collection: Any, key: NamespaceKey, query: Query, space: EmbeddingSpace, now: datetime) -> SearchOutcome:
    by_id: dict[str, Row] = {}
    scanned = 0
    for rows in row_chunks(collection, key, embeddings=True):
        scanned += len(rows)
        by_id.update((_block_id(row), row) for row in rows if passes(key.kind, query.filter, row, now))
    matching = by_id.values()
    block = VectorBlock.of(
        space.dimension,
        ids=list(by_id),
        embeddings=[row[Column.EMBEDDING].tobytes() for row in matching],
        created_us=[row[CREATED] for row in matching],
        importance=[float(row.get(Column.IMPORTANCE) or 0.0) for row in matching],
    )
    best = nearest(block, query, np.ones(len(block), dtype=np.bool_), microseconds(now))
    reader = RecordReader(key.kind, "chroma")
    found = [
        Found(record, score, similarity)
        for block_id, score, similarity in zip(
            best.ids.tolist(), best.scores.tolist(), best.similarities.tolist(), strict=True
        )
        if (record := _shown(reader, by_id[block_id.decode()], query)) is not None
    ]
    return SearchOutcome(found, scanned=scanned, unreadable=reader.unreadable)


def _block_id(row: Row) -> str:
    """Return a row's id in a block, which takes 64 ASCII characters: ours are such, others are hashed."""
    stored_id: str = row[Column.ID]
    if len(stored_id) == _BLOCK_ID_LENGTH and stored_id.isascii():
        return stored_id
    return hashlib.sha256(stored_id.encode(errors="replace")).hexdigest()


def _shown(reader: RecordReader, row: Row, query: Query) -> Record | None:
    record = reader.read(row)
    if record is not None and not query.include_embeddings:
        record.embedding = None
    return record
