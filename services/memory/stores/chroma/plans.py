"""What a save writes, by what its collection holds already."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from services.memory.domain.copies import identities_of
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.near_copies import NearCopies
from services.memory.domain.records import Record
from services.memory.domain.saves import SavePlan, StoredRecord, ids_to_read, plan_save
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.rows.columns import Column
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import created_of, record_id, row_revision, row_ties
from services.memory.stores.chroma.rows import IDENTITY, identity_in, keys_of, owner_of, rows_of, sort_key
from services.memory.stores.chroma.searches import search_all
from services.memory.stores.near_copies import queries_for

_IDENTITIES_AT_ONCE = 500


def near_copies_of(
    collection: Any, key: NamespaceKey, space: EmbeddingSpace, new: Sequence[Record], now: datetime, similarity: float
) -> NearCopies:
    near = NearCopies(similarity)
    for query in queries_for(new, similarity):
        near.add(found.record for found in search_all(collection, key, query, space, now).results)
    return near


def plan_of(
    collection: Any, key: NamespaceKey, new: Sequence[Record], now: datetime, near: NearCopies | None
) -> SavePlan:
    """Return what to write for new records, of which what has expired is removed already."""
    stored: dict[str, StoredRecord | None] = {}
    placed: dict[str, str] = {}
    private_ids = secrets.token_bytes()
    identities = identities_of(new)
    while ids := ids_to_read(new, identities, stored, private_ids):
        stored |= dict.fromkeys(ids)
        for row in rows_of(collection.get(ids=keys_of(key, ids), include=["metadatas"]), key):
            own = record_id(key.kind, row)
            if own in ids:
                placed[own] = row[Column.ID]
                stored[own] = StoredRecord(
                    identity_in(key, row),
                    created_of(row) or now,
                    owner_of(key, row),
                    row_revision(key.kind, row),
                    row_ties(key.kind, row).savers,
                )
    same: dict[str, Record] = {}
    looked_for = list({identity for record, identity in zip(new, identities, strict=True) if not record.id})
    reader = RecordReader(key.kind, "chroma")
    for start in range(0, len(looked_for), _IDENTITIES_AT_ONCE):
        some = looked_for[start : start + _IDENTITIES_AT_ONCE]
        rows = rows_of(collection.get(where={IDENTITY: {"$in": some}}, include=["metadatas"]), key)
        for row in sorted(rows, key=sort_key):
            record = reader.read(row)
            if record is not None:
                record.created_at = record.created_at or now
                same.setdefault(row[IDENTITY], record)
    plan = plan_save(new, identities, stored, same, now, private_ids, near)
    for record in plan.writes:
        # A row that something else has written under a record's id is replaced where it is.
        record.stored_id = record.stored_id or placed.get(record.id, "")
    return plan
