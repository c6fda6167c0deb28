"""Memories in ChromaDB: plain searches are approximate, and one process at a time may use the directories."""

import functools
import hashlib
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import numpy as np
import structlog

from services.common.db.database import Database
from services.memory import filters
from services.memory.domain.copies import identities_of, identity_of
from services.memory.domain.expiry import HOUR_US, expires_us
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition, RecordPage, Tally
from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.near_copies import NearCopies
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.saves import SavedRecord, SavePlan, StoredRecord, ids_to_read, plan_save
from services.memory.domain.scopes import ScopeRow
from services.memory.domain.searches import Found, Query, SearchOutcome, WordQuery
from services.memory.domain.vectors import EmbeddingSpace, embedding_mismatch
from services.memory.domain.words import WordedText, ranked_by_words
from services.memory.foreign_rows import note_foreign_row
from services.memory.record_reader import RecordReader
from services.memory.repositories.namespaces import NamespaceRepository, fetch_namespaces
from services.memory.row_values import format_time, parse_boolean, parse_list, read_integer, read_text
from services.memory.rows import (
    Row,
    build_row,
    created_of,
    record_id,
    row_expires_at,
    row_owner,
    row_revision,
    typed_row,
)
from services.memory.schemas import Column, DatabricksIndexSchemas, has_column
from services.memory.stores.base import Switch
from services.memory.stores.chroma.directories import ChromaDirectories
from services.memory.stores.documents import remove_in_steps, replace_in_steps
from services.memory.stores.near_copies import queries_for
from services.memory.stores.sql.blocks import VectorBlock
from services.memory.stores.sql.vectors import nearest

logger = structlog.get_logger(__name__)
_ROWS_IN_CHUNK = 2000
_BLOCK_ID_LENGTH = 64
_NEVER = 1 << 62
_IDENTITIES_AT_ONCE = 500
_CREATED, _EXPIRES, _IDENTITY = "created_us", "expires_us", "identity"


class ChromaMemoryStore:
    """The embedding space and size of each namespace are rows of the service's database; the records are ChromaDB's.

    A save is atomic only as far as ChromaDB's own writes are.
    """

    compares_revisions: ClassVar[bool] = True

    def __init__(self, database: Database, directories: ChromaDirectories) -> None:
        self._database = database
        self._directories = directories

    @property
    def backend_id(self) -> str | None:
        """See `MemoryStore`."""
        return None

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
        near_copies: float = 0.0,
    ) -> Sequence[SavedRecord]:
        """See `MemoryStore`."""

        def write(collection: Any) -> tuple[int, Sequence[SavedRecord]]:
            before = collection.count()
            collection.delete(where={_EXPIRES: {"$lte": microseconds(now)}})
            near = _near_copies(collection, key, space, records, now, near_copies) if near_copies else None
            plan = _plan(collection, key, records, now, near)
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
            found = await self._directories.run(key, lambda collection: _query(collection, key, query, now))
            if found is not None:
                return found
        return await self._directories.run(key, lambda collection: _search_all(collection, key, query, space, now))

    async def search_words(self, key: NamespaceKey, query: WordQuery, now: datetime) -> SearchOutcome:
        """See `MemoryStore`; every record of the namespace is read."""
        seen = filters.visibility(query.filter)

        def search(collection: Any) -> SearchOutcome:
            reader = RecordReader(key.kind, "chroma")
            texts: list[WordedText] = []
            matching: dict[str, Record] = {}
            scanned = 0
            for rows in _chunks(collection, key, embeddings=query.include_embeddings):
                scanned += len(rows)
                for row in rows:
                    record = reader.read(row) if _passes(key.kind, seen, row, now) else None
                    if record is None:
                        continue
                    texts.append(WordedText(row[Column.ID], row[_CREATED], record.searched_text))
                    if _passes(key.kind, query.filter, row, now):
                        matching[row[Column.ID]] = record
            ranked = ranked_by_words(query.terms, texts)
            found = [Found(matching[stored_id], score, 0.0) for stored_id, score in ranked if stored_id in matching]
            found = found[query.skip : query.skip + query.limit]
            return SearchOutcome(found, scanned=scanned, unreadable=reader.unreadable)

        return SearchOutcome() if await self.space(key) is None else await self._directories.run(key, search)

    async def get(
        self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, embeddings: bool, chosen: Filter = EVERYTHING
    ) -> Sequence[Record]:
        """See `MemoryStore`."""
        wanted = list(dict.fromkeys(ids))
        if not wanted or await self.space(key) is None:
            return []

        def read(collection: Any) -> dict[str, Row]:
            found = collection.get(ids=_candidates(key, wanted), include=["metadatas", "embeddings"])
            return {record_id(key.kind, row): row for row in _rows(found, key)}

        rows = await self._directories.run(key, read)
        alive = [rows[own] for own in wanted if own in rows and _passes(key.kind, chosen, rows[own], now)]
        reader = RecordReader(key.kind, "chroma")
        records = [record for row in alive if (record := reader.read(row)) is not None]
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
        reader = RecordReader(key.kind, "chroma")
        records = [record for row in rows[:limit] if (record := reader.read(row)) is not None]
        more = len(rows) > limit
        last = ListPosition(*_sort_key(rows[limit - 1])) if more else None
        return RecordPage(records, more, reader.unreadable, last)

    async def read_through(
        self, key: NamespaceKey, chosen: Filter, after: str, now: datetime, *, embeddings: bool
    ) -> AsyncIterator[Sequence[tuple[str, Record]]]:
        """See `MemoryStore`; in the order of the stored ids."""
        if await self.space(key) is None:
            return
        include = ["metadatas", "embeddings"] if embeddings else ["metadatas"]
        reader = RecordReader(key.kind, "chroma")

        def ids(collection: Any) -> list[str]:
            return sorted(stored_id for stored_id in collection.get(include=[])["ids"] if stored_id > after)

        def read(collection: Any, some: Sequence[str]) -> list[tuple[str, Record]]:
            rows = {row[Column.ID]: row for row in _rows(collection.get(ids=list(some), include=include), key)}
            living = [rows[each] for each in some if each in rows and _passes(key.kind, chosen, rows[each], now)]
            placed = ((row[Column.ID], reader.read(row)) for row in living)
            return [(stored_id, record) for stored_id, record in placed if record is not None]

        left = await self._directories.run(key, ids)
        for start in range(0, len(left), _ROWS_IN_CHUNK):
            some = left[start : start + _ROWS_IN_CHUNK]
            yield await self._directories.run(key, functools.partial(read, some=some))

    async def delete(self, key: NamespaceKey, ids: Sequence[str] | None, chosen: Filter | None, now: datetime) -> int:
        """See `MemoryStore`."""
        wanted = None if ids is None else set(ids)

        def remove(collection: Any) -> int:
            doomed = [
                row[Column.ID]
                for rows in _chunks(collection, key, embeddings=False)
                for row in rows
                if (wanted is None or record_id(key.kind, row) in wanted)
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
        wanted = set(ids)

        def touch(collection: Any) -> int:
            found = _rows(collection.get(ids=_candidates(key, wanted), include=["metadatas"]), key)
            mine = [row for row in found if record_id(key.kind, row) in wanted]
            there = [row[Column.ID] for row in mine if _passes(key.kind, chosen, row, now)]
            for start in range(0, len(there), _ROWS_IN_CHUNK):
                some = there[start : start + _ROWS_IN_CHUNK]
                collection.update(ids=some, metadatas=[{Column.LAST_ACCESSED: format_time(now)}] * len(some))
            return len(there)

        async with self._database.write() as connection:
            if await NamespaceRepository(connection).raise_version(key.id) is None or not wanted:
                return 0
            return await self._directories.run(key, touch)

    async def replace_document(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        document_id: str,
        parts: Sequence[Record],
        stale: Sequence[str],
        now: datetime,
        switch: Switch,
    ) -> None:
        """See `MemoryStore`."""
        await replace_in_steps(self, key, space, document_id, parts, stale, now, switch)

    async def remove_document(
        self, key: NamespaceKey, document_id: str, stale: Sequence[str], now: datetime, switch: Switch
    ) -> int:
        """See `MemoryStore`."""
        return await remove_in_steps(self, key, document_id, stale, now, switch)

    async def scope_rows(self, key: NamespaceKey, prefix: str, now: datetime) -> Sequence[ScopeRow]:
        """See `MemoryStore`."""
        chosen = Filter(scope_prefix=prefix)

        def read(collection: Any) -> list[ScopeRow]:
            found: dict[tuple[str, tuple[str, ...]], list[datetime]] = defaultdict(list)
            for rows in _chunks(collection, key, embeddings=False):
                for row in rows:
                    if _passes(key.kind, chosen, row, now):
                        scope, labels = read_text(row.get(Column.SCOPE)) or "/", parse_list(row.get(Column.CATEGORIES))
                        found[scope, labels].append(moment_of(row[_CREATED]))
            return [
                ScopeRow(scope, labels, len(times), min(times), max(times))
                for (scope, labels), times in sorted(found.items())
            ]

        return [] if await self.space(key) is None else await self._directories.run(key, read)

    async def namespaces(
        self,
        group_id: str,
        limit: int,
        after: tuple[str, MemoryKind] | None,
        *,
        counted: bool = True,  # noqa: ARG002 - the numbers are at hand
    ) -> Sequence[NamespaceInfo]:
        """See `MemoryStore`; the numbers of records are kept with the namespaces."""
        async with self._database.read() as connection:
            return await NamespaceRepository(connection).page(group_id, limit, after)

    async def describe(self, keys: Sequence[NamespaceKey]) -> Mapping[NamespaceKey, NamespaceInfo]:
        """See `MemoryStore`."""
        return await fetch_namespaces(self._database, keys)


def _near_copies(
    collection: Any, key: NamespaceKey, space: EmbeddingSpace, new: Sequence[Record], now: datetime, similarity: float
) -> NearCopies:
    near = NearCopies(similarity)
    for query in queries_for(new, similarity):
        near.add(found.record for found in _search_all(collection, key, query, space, now).results)
    return near


def _plan(
    collection: Any, key: NamespaceKey, new: Sequence[Record], now: datetime, near: NearCopies | None
) -> SavePlan:
    """Return what to write for new records, of which what has expired is removed already."""
    stored: dict[str, StoredRecord | None] = {}
    placed: dict[str, str] = {}
    private_ids = secrets.token_bytes()
    identities = identities_of(new)
    while ids := ids_to_read(new, identities, stored, private_ids):
        stored |= dict.fromkeys(ids)
        for row in _rows(collection.get(ids=_candidates(key, ids), include=["metadatas"]), key):
            own = record_id(key.kind, row)
            if own in ids:
                placed[own] = row[Column.ID]
                stored[own] = StoredRecord(
                    _identity(key, row), created_of(row) or now, _owner(key, row), row_revision(key.kind, row)
                )
    same: dict[str, Record] = {}
    looked_for = list({identity for record, identity in zip(new, identities, strict=True) if not record.id})
    reader = RecordReader(key.kind, "chroma")
    for start in range(0, len(looked_for), _IDENTITIES_AT_ONCE):
        some = looked_for[start : start + _IDENTITIES_AT_ONCE]
        rows = _rows(collection.get(where={_IDENTITY: {"$in": some}}, include=["metadatas"]), key)
        for row in sorted(rows, key=_sort_key):
            record = reader.read(row)
            if record is not None:
                record.created_at = record.created_at or now
                same.setdefault(row[_IDENTITY], record)
    plan = plan_save(new, identities, stored, same, now, private_ids, near)
    for record in plan.writes:
        # A row that something else has written under a record's id is replaced where it is.
        record.stored_id = record.stored_id or placed.get(record.id, "")
    return plan


def _identity(key: NamespaceKey, row: Row) -> str:
    # Rows of earlier versions, and those that something else has written, have none.
    record = None if row.get(_IDENTITY) else RecordReader(key.kind, "chroma").read(row)
    return str(row.get(_IDENTITY) or (identity_of(record) if record else ""))


def _candidates(key: NamespaceKey, ids: Iterable[str]) -> list[str]:
    """Return the primary keys that records of these ids can have: our own, and the ids themselves."""
    return list(dict.fromkeys(stored_id for own in ids for stored_id in (key.stored_id(own), own)))


def _owner(key: NamespaceKey, row: Row) -> str | None:
    return row_owner(row) if key.kind is MemoryKind.UNIFIED and parse_boolean(row[Column.PRIVATE]) else None


def _metadata(key: NamespaceKey, record: Record, embedding_model: str) -> dict[str, Any]:
    """Return a record's row as ChromaDB's metadata, which take texts, numbers and truth values."""
    assert record.created_at is not None
    created = microseconds(record.created_at)
    ends = expires_us(record)
    row: dict[str, Any] = {
        _CREATED: created,
        _EXPIRES: _NEVER if ends is None else min(ends, _NEVER),
        _IDENTITY: identity_of(record),
    }
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
    row[_CREATED] = 0 if created is None else microseconds(created)
    row[_IDENTITY] = metadata.get(_IDENTITY)
    ends = row_expires_at(kind, row)
    row[_EXPIRES] = _NEVER if ends is None else microseconds(ends)
    if kind is MemoryKind.SHORT_TERM and created and (hours := read_integer(row[Column.TTL_HOURS], bits=32)) > 0:
        row[_EXPIRES] = min(row[_EXPIRES], row[_CREATED] + hours * HOUR_US)
    return row


def _chunks(collection: Any, key: NamespaceKey, *, embeddings: bool) -> Iterator[list[Row]]:
    include = ["metadatas", "embeddings"] if embeddings else ["metadatas"]
    offset = 0
    while True:
        answer = collection.get(limit=_ROWS_IN_CHUNK, offset=offset, include=include)
        rows = _rows(answer, key)
        if rows:
            yield rows
        if len(answer["ids"]) < _ROWS_IN_CHUNK:
            return
        offset += len(answer["ids"])


def _query(collection: Any, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome | None:
    """Find the nearest records; None if one of them has expired, and keeps another out."""
    count = min(query.limit, collection.count())
    if not count:
        return SearchOutcome()
    answer = collection.query(
        query_embeddings=query.vector[None, :], n_results=count, include=["metadatas", "embeddings", "distances"]
    )
    first = {name: answer[name][0] for name in ("ids", "metadatas", "embeddings")}
    rows = {row[Column.ID]: row for row in _rows(first, key)}
    if not all(_passes(key.kind, EVERYTHING, row, now) for row in rows.values()):
        return None
    reader = RecordReader(key.kind, "chroma")
    found = []
    for stored_id, distance in zip(first["ids"], answer["distances"][0], strict=True):
        similarity = max(-1.0, min(1.0, 1.0 - float(distance)))
        record = _shown(reader, rows[stored_id], query) if stored_id in rows else None
        if record is not None and (query.min_score is None or similarity >= query.min_score):
            found.append(Found(record, similarity, similarity))
    return SearchOutcome(found, unreadable=reader.unreadable)


def _search_all(
    collection: Any, key: NamespaceKey, query: Query, space: EmbeddingSpace, now: datetime
) -> SearchOutcome:
    by_id: dict[str, Row] = {}
    scanned = 0
    for rows in _chunks(collection, key, embeddings=True):
        scanned += len(rows)
        by_id.update((_block_id(row), row) for row in rows if _passes(key.kind, query.filter, row, now))
    matching = by_id.values()
    block = VectorBlock.of(
        space.dimension,
        ids=list(by_id),
        embeddings=[row[Column.EMBEDDING].tobytes() for row in matching],
        created_us=[row[_CREATED] for row in matching],
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


def _passes(kind: MemoryKind, chosen: Filter, row: Row, now: datetime) -> bool:
    if row[_EXPIRES] <= microseconds(now):
        return False
    return filters.within_times(chosen, row[_CREATED]) and filters.matches(kind, chosen, row)


def _sort_key(row: Row) -> tuple[int, str]:
    return row[_CREATED], row[Column.ID]
