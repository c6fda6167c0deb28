"""Memories as rows of the service's database, vectors included; searches are exact."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, Protocol

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.access import DatabaseAccess
from services.common.db.database import Database
from services.memory import filters
from services.memory.domain.copies import identities_of
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.history import Keeping
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.near_copies import NearCopies
from services.memory.domain.records import Record
from services.memory.domain.saves import SavedRecord, SavePlan
from services.memory.domain.searches import Query, SearchOutcome
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.repositories.namespaces import NamespaceRepository, fetch_namespace
from services.memory.rows.columns import Column
from services.memory.rows.row import Row
from services.memory.stores.base import Switch
from services.memory.stores.near_copies import filters_for, queries_for
from services.memory.stores.sql.expiry import remove_expired
from services.memory.stores.sql.history import VersionsOf
from services.memory.stores.sql.history_reads import SqlHistory
from services.memory.stores.sql.reads import SqlRecordReader, existing_ids, matching_among
from services.memory.stores.sql.rows import stored_row
from services.memory.stores.sql.saved_before import MOST_MEANWHILE, Candidates, SavedBefore, WrittenMeanwhile
from services.memory.stores.sql.search import VectorSearch
from services.memory.stores.sql.statements import (
    IDS_IN_STATEMENT,
    ROWS_IN_CHUNK,
    delete_rows,
    delete_some,
    living,
    owned,
    owned_among,
    parts,
)
from services.memory.stores.sql.words import store_words, written_words
from services.memory.stores.sql.writes import write_rows
from services.memory.tables import records, versions

_ATTEMPTS: Final = 3


class NearestSearch(Protocol):
    """How the records of a namespace are found by their vectors."""

    async def search(self, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome:
        """See `MemoryStore`."""
        ...

    def note_removal(self, namespace_id: str, version: int, previous: int, ids: Sequence[str]) -> None:
        """Note what the committed write of a version removed; `previous` is the version of the removal before."""
        ...

    def note_touch(self, namespace_id: str, version: int, ids: Sequence[str]) -> None:
        """Note which records the committed write of a version touched."""
        ...

    def forget(self, namespace_id: str) -> None:
        """Give up what is remembered of a namespace."""
        ...


class SqlRecordStore(SqlRecordReader):
    """Memories as rows of a database, on SQLite and PostgreSQL alike; what finds them by vectors is handed in.

    Saves are one transaction. Removals by filter, of whole namespaces and of what expired are many small ones:
    concurrent saves wait for one of them at most.
    """

    compares_revisions: ClassVar[bool] = True
    replaces_at_once: ClassVar[bool] = True
    removes_at_once: ClassVar[bool] = True

    def __init__(self, database: DatabaseAccess, search: NearestSearch) -> None:
        super().__init__(database)
        self._search = search
        self.history = SqlHistory(database)
        """What records said before."""

    @property
    def backend_id(self) -> str | None:
        """See `MemoryStore`."""
        return None

    async def save(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        new: Sequence[Record],
        now: datetime,
        *,
        crew_name: str = "",
        near_copies: float = 0.0,
        keeping: Keeping | None = None,
        switch: Switch | None = None,
    ) -> Sequence[SavedRecord]:
        """See `MemoryStore` and `KeepsHistory`; `switch` is called before the transaction ends."""
        # Before the transaction, which keeps all writers of the namespace waiting, on SQLite those of every namespace.
        prepared = await asyncio.to_thread(_prepared, key, new, self._database.dialect)
        for attempt in range(_ATTEMPTS):
            candidates = await self._candidates(key, new, now, near_copies) if near_copies else None
            # Where others write all the time, they wait at last.
            most = MOST_MEANWHILE if attempt + 1 < _ATTEMPTS else None
            with contextlib.suppress(WrittenMeanwhile):
                async with self._database.write() as connection:
                    saved_before = SavedBefore(connection, key, now)
                    version = await NamespaceRepository(connection).claim(key, space, now, crew_name)
                    near = await saved_before.near_copies(candidates, near_copies, most=most) if candidates else None
                    plan = await self._write(
                        connection, key, space, new, prepared, version, saved_before, now, near, keeping
                    )
                    if switch:
                        await switch(connection)
                return plan.saved
        raise AssertionError("the last attempt reads all that was written")

    async def _write(
        self,
        connection: AsyncConnection,
        key: NamespaceKey,
        space: EmbeddingSpace,
        new: Sequence[Record],
        prepared: tuple[list[str], list[str]],
        version: int,
        saved_before: SavedBefore,
        now: datetime,
        near: NearCopies | None = None,
        keeping: Keeping | None = None,
    ) -> SavePlan:
        """Store records by the write of a version, which holds the namespace."""
        identities, words = prepared
        plan = await saved_before.plan(new, identities, near)
        # Thousands of rows take their time, in which others are served.
        rows = await asyncio.to_thread(_written_rows, key, space, plan, identities, version)
        since = await self._keep_replaced(connection, key, saved_before, rows, plan.writes, keeping, now)
        now_us = microseconds(now)
        for row in rows:
            row["saved_us"] = since.get(row[Column.ID], now_us)
        words_by_id = {row[Column.ID]: words[position] for row, position in zip(rows, plan.positions, strict=True)}
        table = records[key.kind]
        await write_rows(connection, table, Column.ID, rows, saved_before.absent, owned(table, key))
        await store_words(connection, key.id, words_by_id)
        added = len(rows) - len(saved_before.rows & {row[Column.ID] for row in rows})
        await NamespaceRepository(connection).add_records(key.id, added)
        return plan

    async def replace_document(
        self,
        key: NamespaceKey,
        space: EmbeddingSpace,
        document_id: str,
        parts: Sequence[Record],
        stale: Iterable[str],  # noqa: ARG002 - a save that has not ended has left nothing here
        now: datetime,
        switch: Switch,
    ) -> None:
        """See `MemoryStore`; one transaction."""
        prepared = await asyncio.to_thread(_prepared, key, parts, self._database.dialect)
        async with self._database.write() as connection:
            namespaces = NamespaceRepository(connection)
            # From here on no other save of the namespace comes in between.
            version = await namespaces.claim(key, space, now)
            saved_before = SavedBefore(connection, key, now)
            await self._write(connection, key, space, parts, prepared, version, saved_before, now)
            previous = await namespaces.hold(key.id)
            earlier = [*_parts_of(key, document_id), records[key.kind].c.written_version != version]
            removed = await delete_rows(connection, records[key.kind], earlier)
            await namespaces.remove_records(key.id, version, len(removed))
            # In the transaction of another database too: what is not switched to is not there.
            await switch(connection if self.backend_id is None else None)
        if removed and previous is not None:
            self._search.note_removal(key.id, version, previous, removed)

    async def remove_document(
        self,
        key: NamespaceKey,
        document_id: str,
        last_revision: int,  # noqa: ARG002 - where a later one is there, `switch` undoes the removal
        stale: Iterable[str],  # noqa: ARG002 - see above
        now: datetime,  # noqa: ARG002 - what has expired goes too
        switch: Switch,
    ) -> int:
        """See `MemoryStore`; one transaction."""
        async with self._database.write() as connection:
            namespaces = NamespaceRepository(connection)
            previous = await namespaces.hold(key.id)
            removed = await delete_rows(connection, records[key.kind], _parts_of(key, document_id))
            version = await namespaces.raise_version(key.id) if removed else None
            await namespaces.remove_records(key.id, version, len(removed))
            await switch(connection)
        if version is not None and previous is not None:
            self._search.note_removal(key.id, version, previous, removed)
        return len(removed)

    async def _keep_replaced(
        self,
        connection: AsyncConnection,
        key: NamespaceKey,
        saved_before: SavedBefore,
        rows: Sequence[Row],
        writes: Sequence[Record],
        keeping: Keeping | None,
        now: datetime,
    ) -> Mapping[str, int | None]:
        """Keep what rows replace, and return since when they are so, unless that is now."""
        if not saved_before.rows or not _keeps(key, keeping):
            return {}
        assert keeping is not None
        replacing = {
            row[Column.ID]: record
            for row, record in zip(rows, writes, strict=True)
            if row[Column.ID] in saved_before.rows
        }
        if not replacing:
            return {}
        return await self._versions(connection, key).keep_replaced(replacing, keeping, now)

    async def _candidates(
        self, key: NamespaceKey, new: Sequence[Record], now: datetime, similarity: float
    ) -> Candidates:
        """Return which records may be near-copies, and the version of the namespace at which others may be written."""
        namespace = await fetch_namespace(self._database, key)
        if namespace is None:
            return Candidates(0, filters=filters_for(new))
        stored_ids: set[str] = set()
        for query in queries_for(new, similarity):
            outcome = await self._search.search(key, query, now)
            stored_ids.update(found.record.stored_id for found in outcome.results)
        return Candidates(namespace.version, sorted(stored_ids), filters_for(new))

    async def search(self, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome:
        """See `MemoryStore`."""
        return await self._search.search(key, query, now)

    async def delete(
        self,
        key: NamespaceKey,
        ids: Sequence[str] | None,
        chosen: Filter | None,
        now: datetime,
        *,
        keeping: Keeping | None = None,
    ) -> int:
        """See `MemoryStore` and `KeepsHistory`."""
        if ids is not None:
            stored = list({key.stored_id(client_id) for client_id in ids})
            by_id_alone = chosen is None or chosen == filters.visibility(chosen)
            return await self._delete_stored(key, stored, chosen, now, keeping, by_id_alone=by_id_alone)
        assert chosen is not None
        deleted = 0
        async for positions in self.positions(key, chosen, now, None, ROWS_IN_CHUNK):
            if positions:
                # Decided again with the namespace locked: a record may have been replaced since it was read.
                stored = [position.stored_id for position in positions]
                deleted += await self._delete_stored(key, stored, chosen, now, keeping, by_id_alone=False)
        return deleted

    async def _delete_stored(
        self,
        key: NamespaceKey,
        ids: Sequence[str],
        chosen: Filter | None,
        now: datetime,
        keeping: Keeping | None,
        *,
        by_id_alone: bool,
    ) -> int:
        table = records[key.kind]
        clauses = living(key, chosen, microseconds(now), self._database.dialect) if chosen else []
        rest = filters.residual(chosen) if chosen else None
        async with self._database.write() as connection:
            namespaces = NamespaceRepository(connection)
            previous = await namespaces.hold(key.id)
            if previous is None:
                return 0
            given = ids
            if rest is not None:
                ids = await matching_among(connection, key, ids, rest)
            deleted: list[str] = []
            for part in parts(ids, IDS_IN_STATEMENT):
                if keeping and not keeping.purge and _keeps(key, keeping):
                    await self._versions(connection, key).keep_deleted(part, clauses, keeping, now)
                deleted += await delete_rows(connection, table, [owned_among(table, key, part), *clauses])
            if keeping and keeping.purge and key.kind in versions:
                # What was deleted before has versions only; what is still there, but not meant, keeps its own.
                left = await existing_ids(connection, key, given) if by_id_alone else set[str]()
                purged = [stored_id for stored_id in (given if by_id_alone else deleted) if stored_id not in left]
                await self._versions(connection, key).purge(purged, filters.visibility(chosen or EVERYTHING))
            if not deleted:
                return 0
            version = await namespaces.raise_version(key.id)
            assert version is not None
            await namespaces.remove_records(key.id, version, len(deleted))
        self._search.note_removal(key.id, version, previous, deleted)
        return len(deleted)

    def _versions(self, connection: AsyncConnection, key: NamespaceKey) -> VersionsOf:
        return VersionsOf(connection, key, self._database.dialect)

    async def clear(self, key: NamespaceKey) -> int:
        """See `MemoryStore`; what is saved in between stays, and the embedding space with it."""
        table = records[key.kind]
        if key.kind in versions:
            await self.history.clear(key)
        first_version: int | None = None
        removed = 0
        while True:
            async with self._database.write() as connection:
                namespaces = NamespaceRepository(connection)
                version = await namespaces.raise_version(key.id)
                if version is None:
                    return removed
                first_version = first_version or version
                earlier = [owned(table, key), table.c.written_version <= first_version]
                some = await delete_some(connection, table, earlier)
                removed += some
                emptied = some < ROWS_IN_CHUNK and not await connection.scalar(
                    select(table.c[Column.ID]).where(owned(table, key)).limit(1)
                )
                if some < ROWS_IN_CHUNK and key.kind in versions:
                    # What others replaced or deleted in between was kept again.
                    await self._versions(connection, key).remove_all()
                if emptied:
                    await namespaces.clear(key.id, version)
                else:
                    await namespaces.remove_records(key.id, version, some)
            self._search.forget(key.id)
            if some < ROWS_IN_CHUNK:
                return removed

    async def touch(self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, chosen: Filter = EVERYTHING) -> int:
        """See `MemoryStore`; the filter is one that SQL decides alone."""
        table = records[key.kind]
        stored = sorted({key.stored_id(client_id) for client_id in ids})
        async with self._database.write() as connection:
            namespaces = NamespaceRepository(connection)
            if await namespaces.hold(key.id) is None:
                return 0
            touched, version = 0, None
            clauses = living(key, chosen, microseconds(now), self._database.dialect)
            for part in parts(stored, IDS_IN_STATEMENT):
                statement = update(table).where(owned_among(table, key, part), *clauses)
                touched += (await connection.execute(statement.values({Column.LAST_ACCESSED: now}))).rowcount
            if touched:
                version = await namespaces.raise_version(key.id)
        if version is not None:
            self._search.note_touch(key.id, version, stored)
        return touched

    async def sweep(self, now: datetime) -> int:
        """Remove what has expired in all namespaces, and return how many records."""
        return await remove_expired(self._database, now)


class SqlMemoryStore(SqlRecordStore):
    """The default store: vectors are compared here, exactly."""

    _search: VectorSearch

    def __init__(self, database: Database, *, cache_bytes: int, cached_namespace_bytes: int) -> None:
        """`cache_bytes` bounds what searches remember in all, `cached_namespace_bytes` what of one namespace."""
        search = VectorSearch(database, cache_bytes=cache_bytes, cached_namespace_bytes=cached_namespace_bytes)
        super().__init__(database, search)


def _parts_of(key: NamespaceKey, document_id: str) -> list[ColumnElement[bool]]:
    table = records[key.kind]
    return [owned(table, key), table.c[Column.PARENT_DOCUMENT_ID] == document_id]


def _prepared(key: NamespaceKey, new: Sequence[Record], dialect: str) -> tuple[list[str], list[str]]:
    """Return the identities and the words of records. To be called in a thread: megabytes of text take their time."""
    return identities_of(new), written_words(key.id, new, dialect)


def _written_rows(
    key: NamespaceKey, space: EmbeddingSpace, plan: SavePlan, identities: Sequence[str], version: int
) -> list[dict[str, Any]]:
    return [
        stored_row(key, space, record, identities[position], version)
        for record, position in zip(plan.writes, plan.positions, strict=True)
    ]


def _keeps(key: NamespaceKey, keeping: Keeping | None) -> bool:
    return keeping is not None and keeping.most > 0 and key.kind in versions
