"""Memories in ChromaDB: plain searches are approximate, and one process at a time may use the directories."""

import functools
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import numpy as np
import structlog

from services.common.db.database import Database
from services.memory import filters
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition, RecordPage, Tally
from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.saves import SavedRecord
from services.memory.domain.scopes import ScopeRow
from services.memory.domain.searches import Found, Query, SearchOutcome, WordQuery
from services.memory.domain.vectors import EmbeddingSpace, embedding_mismatch
from services.memory.domain.words import WordedText, ranked_by_words
from services.memory.repositories.namespaces import NamespaceRepository, fetch_namespaces
from services.memory.rows.columns import Column
from services.memory.rows.reader import RecordReader
from services.memory.rows.row import Row, record_id
from services.memory.rows.values import format_time, parse_list, read_text
from services.memory.stores.chroma.directories import ChromaDirectories
from services.memory.stores.chroma.plans import near_copies_of, plan_of
from services.memory.stores.chroma.rows import (
    CREATED,
    EXPIRES,
    ROWS_IN_CHUNK,
    keys_of,
    metadata_of,
    passes,
    row_chunks,
    rows_of,
    sort_key,
)
from services.memory.stores.chroma.searches import query_nearest, search_all
from services.memory.stores.documents import SteppedDocuments

logger = structlog.get_logger(__name__)


class ChromaMemoryStore(SteppedDocuments):
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
            collection.delete(where={EXPIRES: {"$lte": microseconds(now)}})
            near = near_copies_of(collection, key, space, records, now, near_copies) if near_copies else None
            plan = plan_of(collection, key, records, now, near)
            rows = [metadata_of(key, record, space.model) for record in plan.writes]
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
            found = await self._directories.run(key, lambda collection: query_nearest(collection, key, query, now))
            if found is not None:
                return found
        return await self._directories.run(key, lambda collection: search_all(collection, key, query, space, now))

    async def search_words(self, key: NamespaceKey, query: WordQuery, now: datetime) -> SearchOutcome:
        """See `MemoryStore`; every record of the namespace is read."""
        seen = filters.visibility(query.filter)

        def search(collection: Any) -> SearchOutcome:
            reader = RecordReader(key.kind, "chroma")
            texts: list[WordedText] = []
            matching: dict[str, Record] = {}
            scanned = 0
            for rows in row_chunks(collection, key, embeddings=query.include_embeddings):
                scanned += len(rows)
                for row in rows:
                    record = reader.read(row) if passes(key.kind, seen, row, now) else None
                    if record is None:
                        continue
                    texts.append(WordedText(row[Column.ID], row[CREATED], record.searched_text))
                    if passes(key.kind, query.filter, row, now):
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
            found = collection.get(ids=keys_of(key, wanted), include=["metadatas", "embeddings"])
            return {record_id(key.kind, row): row for row in rows_of(found, key)}

        rows = await self._directories.run(key, read)
        alive = [rows[own] for own in wanted if own in rows and passes(key.kind, chosen, rows[own], now)]
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
            for rows in row_chunks(collection, key, embeddings=embeddings):
                newest.extend(
                    row
                    for row in rows
                    if passes(key.kind, chosen, row, now)
                    and (after is None or sort_key(row) < (after.created, after.stored_id))
                )
                newest.sort(key=sort_key, reverse=True)
                del newest[limit + 1 :]
            return newest

        rows = [] if await self.space(key) is None else await self._directories.run(key, read)
        reader = RecordReader(key.kind, "chroma")
        records = [record for row in rows[:limit] if (record := reader.read(row)) is not None]
        more = len(rows) > limit
        last = ListPosition(*sort_key(rows[limit - 1])) if more else None
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
            rows = {row[Column.ID]: row for row in rows_of(collection.get(ids=list(some), include=include), key)}
            living = [rows[each] for each in some if each in rows and passes(key.kind, chosen, rows[each], now)]
            placed = ((row[Column.ID], reader.read(row)) for row in living)
            return [(stored_id, record) for stored_id, record in placed if record is not None]

        left = await self._directories.run(key, ids)
        for start in range(0, len(left), ROWS_IN_CHUNK):
            some = left[start : start + ROWS_IN_CHUNK]
            yield await self._directories.run(key, functools.partial(read, some=some))

    async def delete(self, key: NamespaceKey, ids: Sequence[str] | None, chosen: Filter | None, now: datetime) -> int:
        """See `MemoryStore`."""
        wanted = None if ids is None else set(ids)

        def remove(collection: Any) -> int:
            doomed = [
                row[Column.ID]
                for rows in row_chunks(collection, key, embeddings=False)
                for row in rows
                if (wanted is None or record_id(key.kind, row) in wanted)
                and passes(key.kind, chosen or EVERYTHING, row, now)
            ]
            for start in range(0, len(doomed), ROWS_IN_CHUNK):
                collection.delete(ids=doomed[start : start + ROWS_IN_CHUNK])
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
                passes(key.kind, chosen, row, now)
                for rows in row_chunks(collection, key, embeddings=False)
                for row in rows
            )

        return Tally(0 if await self.space(key) is None else await self._directories.run(key, count))

    async def clear(self, key: NamespaceKey) -> int:
        """See `MemoryStore`."""

        def clear(collection: Any) -> int:
            removed = int(collection.count())
            for start in range(0, removed, ROWS_IN_CHUNK):
                collection.delete(ids=collection.get(limit=min(ROWS_IN_CHUNK, removed - start), include=[])["ids"])
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
            found = rows_of(collection.get(ids=keys_of(key, wanted), include=["metadatas"]), key)
            mine = [row for row in found if record_id(key.kind, row) in wanted]
            matching = [row[Column.ID] for row in mine if passes(key.kind, chosen, row, now)]
            for start in range(0, len(matching), ROWS_IN_CHUNK):
                some = matching[start : start + ROWS_IN_CHUNK]
                collection.update(ids=some, metadatas=[{Column.LAST_ACCESSED: format_time(now)}] * len(some))
            return len(matching)

        async with self._database.write() as connection:
            if await NamespaceRepository(connection).raise_version(key.id) is None or not wanted:
                return 0
            return await self._directories.run(key, touch)

    async def scope_rows(self, key: NamespaceKey, prefix: str, now: datetime) -> Sequence[ScopeRow]:
        """See `MemoryStore`."""
        chosen = Filter(scope_prefix=prefix)

        def read(collection: Any) -> list[ScopeRow]:
            found: dict[tuple[str, tuple[str, ...]], list[datetime]] = defaultdict(list)
            for rows in row_chunks(collection, key, embeddings=False):
                for row in rows:
                    if passes(key.kind, chosen, row, now):
                        scope, labels = read_text(row.get(Column.SCOPE)) or "/", parse_list(row.get(Column.CATEGORIES))
                        found[scope, labels].append(moment_of(row[CREATED]))
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
