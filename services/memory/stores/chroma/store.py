"""Memories in ChromaDB: plain searches are approximate, and one process at a time may use the directories."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np

from services.common.db.database import Database
from services.memory import filters
from services.memory.domain.copies import identity_of
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition, RecordPage, Tally
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind, Record, ShortTerm
from services.memory.domain.saves import SavedRecord, SavePlan, StoredRecord, ids_to_read, plan_save
from services.memory.domain.scopes import ScopeRow
from services.memory.domain.searches import Found, Query, SearchOutcome
from services.memory.domain.vectors import EmbeddingSpace, embedding_mismatch
from services.memory.repositories.namespaces import NamespaceRepository
from services.memory.rows import (
    Row,
    build_row,
    format_time,
    parse_boolean,
    parse_list,
    parse_row,
    row_owner,
    row_revision,
)
from services.memory.schemas import Column, has_column
from services.memory.stores.chroma.directories import ChromaDirectories
from services.memory.stores.sql.vectors import VectorBlock, nearest

_ROWS_IN_CHUNK = 2000
_IDENTITIES_AT_ONCE = 500
_CREATED, _EXPIRES, _IDENTITY = "created_us", "expires_us", "identity"
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
_HOUR_US = 3_600_000_000


class ChromaMemoryStore:
    """The embedding space and size of each namespace are rows of the service's database; the records are ChromaDB's.

    A save is atomic only as far as ChromaDB's own writes are.
    """

    compares_revisions: ClassVar[bool] = True

    def __init__(self, database: Database, directories: ChromaDirectories) -> None:
        self._database = database
        self._directories = directories

    async def space(self, key: NamespaceKey) -> EmbeddingSpace | None:
        """See `MemoryStore`."""
        async with self._database.read() as connection:
            info = await NamespaceRepository(connection).get(key)
        return info.space if info else None

    async def save(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        records: Sequence[Record],
        now: datetime,
        *,
        crew_name: str = "",
    ) -> Sequence[SavedRecord]:
        """See `MemoryStore`."""

        def write(collection: Any) -> tuple[int, Sequence[SavedRecord]]:
            before = collection.count()
            if key.kind is MemoryKind.SHORT_TERM:
                collection.delete(where={_EXPIRES: {"$lte": microseconds(now)}})
            plan = _plan(collection, key, records, now)
            rows = [_metadata(key, record, space.model) for record in plan.writes]
            vectors = np.stack([record.embedding for record in plan.writes if record.embedding is not None])
            collection.upsert(ids=[row[Column.ID] for row in rows], embeddings=vectors, metadatas=rows)
            return int(collection.count() - before), plan.saved

        async with self._database.write() as connection:
            namespaces = NamespaceRepository(connection)
            await namespaces.claim(key, space, now, crew_name)
            added, saved = await self._directories.run(key, write)
            await namespaces.add_records(key.id, added)
        return saved

    async def search(self, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome:
        """See `MemoryStore`; filtered, ranked and continued searches are exact, plain ones approximate."""
        space = await self.space(key)
        if space is None:
            return SearchOutcome()
        if len(query.vector) != space.dimension:
            raise embedding_mismatch(space, "", len(query.vector))
        plain = (
            query.ranking is None
            and query.after is None
            and key.kind is not MemoryKind.SHORT_TERM
            and filters.is_empty(query.filter)
        )
        if plain and (query.filter.include_private or key.kind is not MemoryKind.UNIFIED):
            return SearchOutcome(await self._directories.run(key, lambda collection: _query(collection, key, query)))
        return await self._directories.run(key, lambda collection: _search_all(collection, key, query, space, now))

    async def get(
        self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, embeddings: bool, chosen: Filter = EVERYTHING
    ) -> Sequence[Record]:
        """See `MemoryStore`."""
        keys = list(dict.fromkeys(key.stored_id(client_id) for client_id in ids))
        if not keys or await self.space(key) is None:
            return []

        def read(collection: Any) -> dict[str, Row]:
            found = collection.get(ids=keys, include=["metadatas", "embeddings"])
            return {row[Column.ID]: row for row in _rows(found, key)}

        rows = await self._directories.run(key, read)
        alive = [rows[stored] for stored in keys if stored in rows and _passes(key.kind, chosen, rows[stored], now)]
        records = [parse_row(key.kind, row) for row in alive]
        if not embeddings:
            for record in records:
                record.embedding = None
        return records

    async def page(
        self,
        key: NamespaceKey,
        chosen: Filter,
        limit: int,
        after: ListPosition | None,
        now: datetime,
        *,
        embeddings: bool,
    ) -> RecordPage:
        """See `MemoryStore`."""

        def read(collection: Any) -> list[Row]:
            newest: list[Row] = []
            for rows in _chunks(collection, key, embeddings=embeddings):
                newest.extend(
                    row
                    for row in rows
                    if _passes(key.kind, chosen, row, now)
                    and (after is None or _sort_key(row) < (after.created, after.stored_id))
                )
                newest.sort(key=_sort_key, reverse=True)
                del newest[limit + 1 :]
            return newest

        rows = [] if await self.space(key) is None else await self._directories.run(key, read)
        return RecordPage([parse_row(key.kind, row) for row in rows[:limit]], more=len(rows) > limit)

    async def delete(self, key: NamespaceKey, ids: Sequence[str] | None, chosen: Filter | None, now: datetime) -> int:
        """See `MemoryStore`."""
        stored_ids = None if ids is None else {key.stored_id(client_id) for client_id in ids}

        def remove(collection: Any) -> int:
            doomed = [
                row[Column.ID]
                for rows in _chunks(collection, key, embeddings=False)
                for row in rows
                if (stored_ids is None or row[Column.ID] in stored_ids)
                and _passes(key.kind, chosen or EVERYTHING, row, now)
            ]
            for start in range(0, len(doomed), _ROWS_IN_CHUNK):
                collection.delete(ids=doomed[start : start + _ROWS_IN_CHUNK])
            return len(doomed)

        async with self._database.write() as connection:
            namespaces = NamespaceRepository(connection)
            version = await namespaces.raise_version(key.id)
            if version is None:
                return 0
            removed = await self._directories.run(key, remove)
            await namespaces.remove_records(key.id, version, removed)
        return removed

    async def count(self, key: NamespaceKey, chosen: Filter, now: datetime) -> Tally:
        """See `MemoryStore`."""

        def count(collection: Any) -> int:
            return sum(
                _passes(key.kind, chosen, row, now)
                for rows in _chunks(collection, key, embeddings=False)
                for row in rows
            )

        return Tally(0 if await self.space(key) is None else await self._directories.run(key, count))

    async def clear(self, key: NamespaceKey) -> int:
        """See `MemoryStore`."""

        def clear(collection: Any) -> int:
            removed = int(collection.count())
            for start in range(0, removed, _ROWS_IN_CHUNK):
                collection.delete(ids=collection.get(limit=min(_ROWS_IN_CHUNK, removed - start), include=[])["ids"])
            return removed

        async with self._database.write() as connection:
            namespaces = NamespaceRepository(connection)
            version = await namespaces.raise_version(key.id)
            if version is None:
                return 0
            removed = await self._directories.run(key, clear)
            await namespaces.clear(key.id, version)
        return removed

    async def touch(self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, chosen: Filter = EVERYTHING) -> int:
        """See `MemoryStore`."""
        keys = sorted({key.stored_id(client_id) for client_id in ids})

        def touch(collection: Any) -> int:
            rows = _rows(collection.get(ids=keys, include=["metadatas"]), key)
            there = [row[Column.ID] for row in rows if _passes(key.kind, chosen, row, now)]
            for start in range(0, len(there), _ROWS_IN_CHUNK):
                some = there[start : start + _ROWS_IN_CHUNK]
                collection.update(ids=some, metadatas=[{Column.LAST_ACCESSED: format_time(now)}] * len(some))
            return len(there)

        async with self._database.write() as connection:
            if await NamespaceRepository(connection).raise_version(key.id) is None or not keys:
                return 0
            return await self._directories.run(key, touch)

    async def scope_rows(self, key: NamespaceKey, prefix: str) -> Sequence[ScopeRow]:
        """See `MemoryStore`."""
        chosen = Filter(scope_prefix=prefix)

        def read(collection: Any) -> list[ScopeRow]:
            found: dict[tuple[str, str], list[datetime]] = defaultdict(list)
            for rows in _chunks(collection, key, embeddings=False):
                for row in rows:
                    if _passes(key.kind, chosen, row, _EARLIEST):
                        found[row[Column.SCOPE], row[Column.CATEGORIES]].append(filters.created_at(key.kind, row))
            return [
                ScopeRow(scope, parse_list(labels), len(times), min(times), max(times))
                for (scope, labels), times in sorted(found.items())
            ]

        return [] if await self.space(key) is None else await self._directories.run(key, read)

    async def namespaces(
        self, group_id: str, limit: int, after: tuple[str, MemoryKind] | None
    ) -> Sequence[NamespaceInfo]:
        """See `MemoryStore`."""
        async with self._database.read() as connection:
            return await NamespaceRepository(connection).page(group_id, limit, after)


def _plan(collection: Any, key: NamespaceKey, new: Sequence[Record], now: datetime) -> SavePlan:
    """Return what to write for new records, of which what has expired is removed already."""
    stored: dict[str, StoredRecord | None] = {}
    while ids := ids_to_read(new, stored):
        by_stored_id = {key.stored_id(record_id): record_id for record_id in ids}
        stored |= dict.fromkeys(ids)
        for row in _rows(collection.get(ids=list(by_stored_id), include=["metadatas"]), key):
            created_at = filters.created_at(key.kind, row)
            stored[by_stored_id[row[Column.ID]]] = StoredRecord(
                _identity(key, row), created_at, _owner(key, row), row_revision(key.kind, row)
            )
    same: dict[str, Record] = {}
    identities = list({identity_of(record) for record in new if not record.id})
    for start in range(0, len(identities), _IDENTITIES_AT_ONCE):
        some = identities[start : start + _IDENTITIES_AT_ONCE]
        rows = _rows(collection.get(where={_IDENTITY: {"$in": some}}, include=["metadatas"]), key)
        for row in sorted(rows, key=_sort_key):
            same.setdefault(row[_IDENTITY], parse_row(key.kind, row))
    return plan_save(new, stored, same, now)


def _identity(key: NamespaceKey, row: Row) -> str:
    # Rows of earlier versions have none.
    return str(row.get(_IDENTITY) or identity_of(parse_row(key.kind, row)))


def _owner(key: NamespaceKey, row: Row) -> str | None:
    return row_owner(row) if key.kind is MemoryKind.UNIFIED and parse_boolean(row[Column.PRIVATE]) else None


def _metadata(key: NamespaceKey, record: Record, embedding_model: str) -> dict[str, Any]:
    """Return a record's row as ChromaDB's metadata, which take texts, numbers and truth values."""
    assert record.created_at is not None
    created = microseconds(record.created_at)
    row: dict[str, Any] = {_CREATED: created, _IDENTITY: identity_of(record)}
    if isinstance(record.body, ShortTerm):
        row[_EXPIRES] = created + record.body.ttl_hours * _HOUR_US
    for name, value in build_row(key, record, embedding_model).items():
        if name != Column.EMBEDDING:
            # An upsert keeps what it is not given: what is absent is said so.
            row[name] = "" if value is None else format_time(value) if isinstance(value, datetime) else value
    return row


def _rows(answer: Any, key: NamespaceKey) -> list[Row]:
    """Return rows with every column of the kind. No directory should hold one of another owner."""
    vectors = answer.get("embeddings")
    rows: list[Row] = []
    for position, metadata in enumerate(answer["metadatas"]):
        row = dict(metadata)
        if row.get(Column.GROUP_ID) != key.group_id or row.get(Column.CREW_ID, key.memory_id) != key.memory_id:
            raise AssertionError("a directory holds a row of another owner")
        if has_column(key.kind, Column.LAST_ACCESSED):
            row[Column.LAST_ACCESSED] = row.get(Column.LAST_ACCESSED) or None
        if vectors is not None:
            row[Column.EMBEDDING] = np.asarray(vectors[position], dtype=np.float32)
        rows.append(row)
    return rows


def _chunks(collection: Any, key: NamespaceKey, *, embeddings: bool) -> Iterator[list[Row]]:
    include = ["metadatas", "embeddings"] if embeddings else ["metadatas"]
    offset = 0
    while True:
        rows = _rows(collection.get(limit=_ROWS_IN_CHUNK, offset=offset, include=include), key)
        if rows:
            yield rows
        if len(rows) < _ROWS_IN_CHUNK:
            return
        offset += len(rows)


def _query(collection: Any, key: NamespaceKey, query: Query) -> list[Found]:
    count = min(query.limit, collection.count())
    if not count:
        return []
    answer = collection.query(
        query_embeddings=query.vector[None, :], n_results=count, include=["metadatas", "embeddings", "distances"]
    )
    rows = _rows({"metadatas": answer["metadatas"][0], "embeddings": answer["embeddings"][0]}, key)
    found = []
    for row, distance in zip(rows, answer["distances"][0], strict=True):
        similarity = max(-1.0, min(1.0, 1.0 - float(distance)))
        if query.min_score is None or similarity >= query.min_score:
            found.append(Found(_shown(key.kind, row, query), similarity, similarity))
    return found


def _search_all(
    collection: Any, key: NamespaceKey, query: Query, space: EmbeddingSpace, now: datetime
) -> SearchOutcome:
    by_id: dict[str, Row] = {}
    scanned = 0
    for rows in _chunks(collection, key, embeddings=True):
        scanned += len(rows)
        by_id.update((row[Column.ID], row) for row in rows if _passes(key.kind, query.filter, row, now))
    matching = by_id.values()
    block = VectorBlock.of(
        space.dimension,
        ids=list(by_id),
        embeddings=[row[Column.EMBEDDING].tobytes() for row in matching],
        created_us=[row[_CREATED] for row in matching],
        importance=[float(row.get(Column.IMPORTANCE) or 0.0) for row in matching],
    )
    best = nearest(block, query, np.ones(len(block), dtype=np.bool_), microseconds(now))
    found = [
        Found(_shown(key.kind, by_id[stored_id.decode()], query), score, similarity)
        for stored_id, score, similarity in zip(
            best.ids.tolist(), best.scores.tolist(), best.similarities.tolist(), strict=True
        )
    ]
    return SearchOutcome(found, scanned=scanned)


def _shown(kind: MemoryKind, row: Row, query: Query) -> Record:
    record = parse_row(kind, row)
    if not query.include_embeddings:
        record.embedding = None
    return record


def _passes(kind: MemoryKind, chosen: Filter, row: Row, now: datetime) -> bool:
    if kind is MemoryKind.SHORT_TERM and row[_EXPIRES] <= microseconds(now):
        return False
    return filters.within_times(chosen, row[_CREATED]) and filters.matches(kind, chosen, row)


def _sort_key(row: Row) -> tuple[int, str]:
    return row[_CREATED], row[Column.ID]
