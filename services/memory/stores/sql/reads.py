"""Reading memories that are rows of a database: one by one, in lists, counted, and found by words."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.access import DatabaseAccess
from services.common.paging import PAGE_BYTES
from services.memory import filters
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition, RecordPage, Tally
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.scopes import ScopeRow
from services.memory.domain.searches import Found, SearchOutcome, WordQuery
from services.memory.domain.vectors import EmbeddingSpace
from services.memory.repositories.namespaces import NamespaceRepository, fetch_namespace, fetch_namespaces
from services.memory.rows.columns import Column
from services.memory.rows.row import Row
from services.memory.rows.values import parse_list
from services.memory.stores.sql.rows import parse_rows, read_records
from services.memory.stores.sql.statements import (
    IDS_IN_STATEMENT,
    ROWS_IN_CHUNK,
    TEXTS_IN_CHUNK,
    chunks,
    living,
    named,
    newest_first,
    owned,
    owned_among,
    parts,
    row_columns,
)
from services.memory.stores.sql.words import WordIndex
from services.memory.tables import records

# Records of which nobody knows yet how long they are.
_LISTED_AT_ONCE = 20


class SqlRecordReader:
    """What a store in a database reads, on SQLite and PostgreSQL alike."""

    def __init__(self, database: DatabaseAccess) -> None:
        self._database = database

    async def space(self, key: NamespaceKey) -> EmbeddingSpace | None:
        """See `MemoryStore`."""
        info = await fetch_namespace(self._database, key)
        return info.space if info else None

    async def get(
        self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, embeddings: bool, chosen: Filter = EVERYTHING
    ) -> Sequence[Record]:
        """See `MemoryStore`; the filter is one that SQL decides alone."""
        table = records[key.kind]
        stored = [key.stored_id(client_id) for client_id in ids]
        by_id: dict[str, Record] = {}
        for part in parts(stored, IDS_IN_STATEMENT):
            statement = select(*row_columns(table, embeddings=embeddings)).where(
                owned_among(table, key, part), *living(key, chosen, microseconds(now), self._database.dialect)
            )
            by_id |= parse_rows(key, await self._database.fetch(statement))
        return [by_id[stored_id] for stored_id in stored if stored_id in by_id]

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
        # One more than requested shows whether there is a next page.
        positions: list[ListPosition] = []
        async for some in self.positions(key, chosen, now, after, limit + 1):
            positions += some
            if len(positions) > limit:
                break
        placed, looked_up = await self._read_at(key, chosen, positions[:limit], now, embeddings=embeddings)
        more = looked_up < len(positions)
        if more and not placed:
            # What is gone never ends a list early.
            return await self.page(key, chosen, limit, positions[looked_up - 1], now, embeddings=embeddings)
        return RecordPage([record for _, record in placed], more=more)

    async def read_through(
        self, key: NamespaceKey, chosen: Filter, after: str, now: datetime, *, embeddings: bool
    ) -> AsyncIterator[Sequence[tuple[str, Record]]]:
        """See `MemoryStore`; newest first."""
        last = ListPosition.parse(after) if after else None
        async for positions in self.positions(key, chosen, now, last, ROWS_IN_CHUNK):
            left = positions
            while left:
                placed, looked_up = await self._read_at(key, chosen, left, now, embeddings=embeddings)
                yield [(position.text, record) for position, record in placed]
                left = left[looked_up:]

    async def _read_at(
        self, key: NamespaceKey, chosen: Filter, positions: Sequence[ListPosition], now: datetime, *, embeddings: bool
    ) -> tuple[Sequence[tuple[ListPosition, Record]], int]:
        """Return the records at positions of a list, and at how many of them was looked before so many bytes were read.

        Those that were removed or moved since their positions were read are left out.
        """
        clauses = living(key, chosen, microseconds(now), self._database.dialect)
        ids = [position.stored_id for position in positions]
        async with self._database.read() as connection:
            found, looked_up = await read_records(
                connection,
                key,
                ids,
                embeddings=embeddings,
                clauses=clauses,
                at_once=_LISTED_AT_ONCE,
                most_bytes=PAGE_BYTES,
            )
        placed = [
            (position, record)
            for position in positions[:looked_up]
            if (record := found.get(position.stored_id)) and microseconds(record.created_at or now) == position.created
        ]
        return placed, looked_up

    async def positions(
        self, key: NamespaceKey, chosen: Filter, now: datetime, after: ListPosition | None, portion: int
    ) -> AsyncIterator[Sequence[ListPosition]]:
        """Yield the positions of what matches, newest first, in portions that may be empty."""
        table = records[key.kind]
        rest = filters.residual(chosen)
        columns = [table.c[Column.ID], table.c.created_us]
        if rest is not None:
            columns += [table.c[name] for name in filters.columns_needed(key.kind, rest)]
            portion = TEXTS_IN_CHUNK
        clauses = self._clauses(key, chosen, now)
        position = after
        while True:
            rows = await self._database.fetch(newest_first(table, columns, clauses, position, portion))
            yield [
                _position(row) for row in (await asyncio.to_thread(matching, key.kind, rest, rows) if rest else rows)
            ]
            if len(rows) < portion:
                return
            position = _position(rows[-1])

    async def count(self, key: NamespaceKey, chosen: Filter, now: datetime) -> Tally:
        """See `MemoryStore`."""
        table = records[key.kind]
        clauses = self._clauses(key, chosen, now)
        rest = filters.residual(chosen)
        if rest is None:
            [row] = await self._database.fetch(select(func.count().label("total")).select_from(table).where(*clauses))
            return Tally(row["total"])
        total = 0
        statement = select(*(table.c[name] for name in filters.columns_needed(key.kind, rest))).where(*clauses)
        async with self._database.read() as connection:
            async for chunk in chunks(connection, statement, TEXTS_IN_CHUNK):
                total += len(await asyncio.to_thread(matching, key.kind, rest, [named(row) for row in chunk]))
        return Tally(total)

    async def scope_rows(self, key: NamespaceKey, prefix: str, now: datetime) -> Sequence[ScopeRow]:
        """See `MemoryStore`."""
        table = records[key.kind]
        scope, categories = table.c[Column.SCOPE], table.c[Column.CATEGORIES]
        created = table.c[Column.CREATED_AT]
        clauses = self._clauses(key, Filter(scope_prefix=prefix), now)
        statement = (
            select(
                scope,
                categories,
                func.count().label("record_count"),
                func.min(created).label("oldest"),
                func.max(created).label("newest"),
            )
            .where(*clauses)
            .group_by(scope, categories)
            .order_by(scope, categories)
        )
        rows = await self._database.fetch(statement)
        return await asyncio.to_thread(_scope_rows, rows)

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

    async def search_words(self, key: NamespaceKey, query: WordQuery, now: datetime) -> SearchOutcome:
        """See `MemoryStore`."""
        async with self._database.read() as connection:
            namespace = await NamespaceRepository(connection).get(key)
            if namespace is None:
                return SearchOutcome()
            index = WordIndex(connection, namespace, self._database.dialect)
            weights = await index.weights(query.terms, query.filter, microseconds(now))
            ids, scores = await index.best(weights, query.filter, query.skip + query.limit, microseconds(now))
            ids, scores = ids[query.skip :], scores[query.skip :]
            by_id, looked_up = await read_records(connection, key, ids, embeddings=query.include_embeddings)
        ranked = zip(ids, scores, strict=True)
        found = [Found(by_id[stored_id], score, 0.0) for stored_id, score in ranked if stored_id in by_id]
        return SearchOutcome(found, cut=looked_up < len(ids))

    def _clauses(self, key: NamespaceKey, chosen: Filter, now: datetime) -> list[ColumnElement[bool]]:
        living_rows = living(key, chosen, microseconds(now), self._database.dialect)
        return [owned(records[key.kind], key), *living_rows]


def matching(kind: MemoryKind, rest: Filter, rows: Sequence[Row]) -> list[Row]:
    """Return the rows a filter asks for. To be called in a thread: thousands of texts take their time."""
    return [row for row in rows if filters.matches(kind, rest, row)]


async def existing_ids(connection: AsyncConnection, key: NamespaceKey, ids: Sequence[str]) -> set[str]:
    """Return which of some stored ids have a row."""
    table = records[key.kind]
    found: set[str] = set()
    for part in parts(ids, IDS_IN_STATEMENT):
        statement = select(table.c[Column.ID]).where(owned_among(table, key, part))
        found.update((await connection.execute(statement)).scalars())
    return found


async def matching_among(connection: AsyncConnection, key: NamespaceKey, ids: Sequence[str], rest: Filter) -> list[str]:
    """Return which of some stored ids have a row that a filter asks for."""
    table = records[key.kind]
    columns = [table.c[name] for name in filters.columns_needed(key.kind, rest)]
    found: list[str] = []
    for part in parts(ids, TEXTS_IN_CHUNK):
        statement = select(table.c[Column.ID], *columns).where(owned_among(table, key, part))
        rows = [named(row) for row in await connection.execute(statement)]
        found.extend(row[Column.ID] for row in await asyncio.to_thread(matching, key.kind, rest, rows))
    return found


def _scope_rows(rows: Sequence[Row]) -> list[ScopeRow]:
    return [
        ScopeRow(
            row[Column.SCOPE], parse_list(row[Column.CATEGORIES]), row["record_count"], row["oldest"], row["newest"]
        )
        for row in rows
    ]


def _position(row: Row) -> ListPosition:
    return ListPosition(row["created_us"], row[Column.ID])
