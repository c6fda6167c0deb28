"""Memories as rows of the service's database, vectors included; searches are exact."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np
import structlog
from sqlalchemy import ColumnElement, Select, Table, and_, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import utc_now
from services.common.db.database import Database
from services.memory import filters
from services.memory.domain import (
    EmbeddingSpace,
    Filter,
    Found,
    ListPosition,
    MemoryKind,
    NamespaceInfo,
    NamespaceKey,
    Page,
    Query,
    Record,
    ScopeRow,
    ShortTerm,
    Tally,
    microseconds,
    moment_of,
)
from services.memory.schemas import Column, Row, build_row, has_column, parse_list, parse_row
from services.memory.stores.base import embedding_mismatch
from services.memory.stores.namespace_rows import (
    claim,
    list_namespaces,
    raise_version,
    read_namespace,
    record_addition,
    record_clearing,
    record_removal,
    removed_since,
)
from services.memory.stores.sql.statements import alive, filtered, owned
from services.memory.stores.sql.vectors import (
    Candidates,
    Mask,
    VectorBlock,
    VectorCache,
    VectorRow,
    nearest,
)
from services.memory.tables import namespaces, records

_log = structlog.get_logger(__name__)

_IDS_IN_STATEMENT = 500
"""Well below the number of parameters any of the databases takes."""

_ROWS_IN_CHUNK = 4096
_COMPONENTS_IN_LOOP = 1_000_000
"""Products of more components than these are computed off the event loop."""

_ATTEMPTS = 3
_NAMESPACE_VERSION = "namespace_version"

Item = TypeVar("Item")


class SqlMemoryStore:
    """The default store, on SQLite and PostgreSQL alike.

    A search reads the namespace's version and computes on the rows it remembers for that version. Rows written since
    are added to them; after removals all are read again. What does not fit the bounds is computed chunk by chunk.
    """

    def __init__(self, database: Database, *, cache_bytes: int, cached_namespace_bytes: int) -> None:
        """`cache_bytes` bounds what is remembered in all, `cached_namespace_bytes` what of one namespace."""
        self._database = database
        self._cache = VectorCache(cache_bytes)
        self._cached_namespace_bytes = min(cached_namespace_bytes, cache_bytes)
        # One reader fills what several searches wait for.
        self._filling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def space(self, key: NamespaceKey) -> EmbeddingSpace | None:
        """See `MemoryStore`."""
        async with self._database.read() as connection:
            info = await read_namespace(connection, key)
        return info.space if info else None

    async def save(self, key: NamespaceKey, space: EmbeddingSpace, new: Sequence[Record], now: datetime) -> None:
        """See `MemoryStore`."""
        table = records[key.kind]
        # The last of several records with one id wins, as it would with one call for each.
        by_id = {key.stored_id(record.id): record for record in new}
        async with self._database.write() as connection:
            version = await claim(connection, key, space, now)
            existing = await _created_times(connection, table, key, list(by_id))
            rows = [
                _stored_row(key, space, record, version, record.created_at or existing.get(stored_id) or now)
                for stored_id, record in by_id.items()
            ]
            statement: Any = (sqlite_insert if self._database.dialect == "sqlite" else postgresql_insert)(table)
            replaced = {c.name: statement.excluded[c.name] for c in table.c if c.name != Column.ID}
            await connection.execute(
                statement.on_conflict_do_update(index_elements=[Column.ID], set_=replaced, where=owned(table, key)),
                rows,
            )
            await record_addition(connection, key.id, len(by_id) - len(existing))

    async def search(self, key: NamespaceKey, query: Query, now: datetime) -> Sequence[Found]:
        """See `MemoryStore`."""
        at_once = await self._search_remembered(key, query, now)
        if at_once is not None:
            return at_once
        found: list[Found] = []
        for _ in range(_ATTEMPTS):
            async with self._database.read() as connection:
                namespace = await read_namespace(connection, key)
                if namespace is None:
                    return []
                if len(query.vector) != namespace.space.dimension:
                    raise embedding_mismatch(namespace.space, "", len(query.vector))
                best = await self._best(connection, namespace, query, microseconds(now))
                ids = [stored_id.decode() for stored_id in best.ids.tolist()]
                by_id = await self._by_stored_id(connection, key, ids, embeddings=query.include_embeddings)
            found = _found(best, by_id)
            # A winner removed between the two statements leaves its place to the next one.
            if len(found) == len(ids):
                break
        return found

    async def _search_remembered(self, key: NamespaceKey, query: Query, now: datetime) -> Sequence[Found] | None:
        """Search what is remembered, and read the winners in the statement that proves it still true; None: it is not.

        Most searches find nothing changed: they cost one statement.
        """
        remembered = self._cache.get(key.id)
        if remembered is None or _needs_database(query.filter) or query.limit > _IDS_IN_STATEMENT:
            return None
        version, block = remembered
        if block.matrix.shape[1] != len(query.vector):
            return None
        now_us = microseconds(now)
        allowed = block.allowed(query.filter, now_us, unified=key.kind is MemoryKind.UNIFIED)
        best = await _compute(block, query, allowed, now_us)
        table = records[key.kind]
        ids = [stored_id.decode() for stored_id in best.ids.tolist()]
        statement = (
            select(
                namespaces.c.version.label(_NAMESPACE_VERSION), *_columns(table, embeddings=query.include_embeddings)
            )
            .select_from(namespaces.outerjoin(table, and_(owned(table, key), table.c[Column.ID].in_(ids))))
            .where(namespaces.c.id == key.id, namespaces.c.group_id == key.group_id)
        )
        async with self._database.read() as connection:
            rows = await _fetch(connection, statement)
        if not rows or rows[0][_NAMESPACE_VERSION] != version:
            return None
        rows = [row for row in rows if row[Column.ID] is not None]
        return _found(best, dict(zip((row[Column.ID] for row in rows), self._parse(key, rows), strict=True)))

    async def get(self, key: NamespaceKey, ids: Sequence[str], now: datetime, *, embeddings: bool) -> Sequence[Record]:
        """See `MemoryStore`."""
        stored = [key.stored_id(client_id) for client_id in ids]
        async with self._database.read() as connection:
            by_id = await self._by_stored_id(connection, key, stored, embeddings=embeddings, now_us=microseconds(now))
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
    ) -> Page:
        """See `MemoryStore`."""
        table = records[key.kind]
        rest = filters.residual(chosen)
        position, taken = after, list[Row]()
        async with self._database.read() as connection:
            # One more than asked for tells whether there is a next page.
            while len(taken) <= limit:
                wanted = limit + 1 - len(taken) if rest is None else _ROWS_IN_CHUNK
                statement = _newest_first(
                    table, _columns(table, embeddings=embeddings), self._clauses(key, chosen, now), position, wanted
                )
                rows = await _fetch(connection, statement)
                taken.extend(row for row in rows if rest is None or filters.matches(key.kind, rest, row))
                if len(rows) < wanted:
                    break
                position = _position(rows[-1])
        return Page(self._parse(key, taken[:limit]), more=len(taken) > limit)

    async def delete(self, key: NamespaceKey, ids: Sequence[str] | None, chosen: Filter | None, now: datetime) -> int:
        """See `MemoryStore`."""
        table = records[key.kind]
        rest = filters.residual(chosen) if chosen else None
        clauses = self._clauses(key, chosen, now) if chosen else [owned(table, key)]
        async with self._database.write() as connection:
            version = await raise_version(connection, key.id)
            if version is None:
                return 0
            if ids is not None:
                stored = list({key.stored_id(client_id) for client_id in ids})
                if rest is not None:
                    stored = await _matching_among(connection, key, stored, rest)
                deleted = await _delete_ids(connection, table, clauses, stored)
            elif rest is None:
                deleted = (await connection.execute(delete(table).where(*clauses))).rowcount
            else:
                deleted = await _delete_in_chunks(connection, key, clauses, rest)
            await record_removal(connection, key.id, version, deleted)
        return deleted

    async def count(self, key: NamespaceKey, chosen: Filter, now: datetime) -> Tally:
        """See `MemoryStore`."""
        table = records[key.kind]
        clauses = self._clauses(key, chosen, now)
        rest = filters.residual(chosen)
        async with self._database.read() as connection:
            if rest is None:
                return Tally(await connection.scalar(select(func.count()).select_from(table).where(*clauses)) or 0)
            total = 0
            statement = select(*(table.c[name] for name in filters.columns_needed(key.kind, rest))).where(*clauses)
            async for chunk in _chunks(connection, statement):
                total += sum(filters.matches(key.kind, rest, row) for row in chunk)
        return Tally(total)

    async def clear(self, key: NamespaceKey) -> int:
        """See `MemoryStore`."""
        table = records[key.kind]
        async with self._database.write() as connection:
            version = await raise_version(connection, key.id)
            if version is None:
                return 0
            deleted = (await connection.execute(delete(table).where(owned(table, key)))).rowcount
            await record_clearing(connection, key.id, version)
        self._cache.drop(key.id)
        return deleted

    async def touch(self, key: NamespaceKey, ids: Sequence[str], now: datetime) -> int:
        """See `MemoryStore`."""
        table = records[key.kind]
        stored = sorted({key.stored_id(client_id) for client_id in ids})
        async with self._database.write() as connection:
            if await raise_version(connection, key.id) is None:
                return 0
            touched = 0
            for part in _parts(stored, _IDS_IN_STATEMENT):
                statement = update(table).where(owned(table, key), table.c[Column.ID].in_(part))
                touched += (await connection.execute(statement.values({Column.LAST_ACCESSED: now}))).rowcount
        return touched

    async def scope_rows(self, key: NamespaceKey, prefix: str) -> Sequence[ScopeRow]:
        """See `MemoryStore`."""
        table = records[key.kind]
        scope, categories = table.c[Column.SCOPE], table.c[Column.CATEGORIES]
        created = table.c[Column.CREATED_AT]
        clauses = self._clauses(key, Filter(scope_prefix=prefix), utc_now())
        statement = (
            select(scope, categories, func.count(), func.min(created), func.max(created))
            .where(*clauses)
            .group_by(scope, categories)
            .order_by(scope, categories)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            ScopeRow(path, parse_list(labels), count, oldest, newest) for path, labels, count, oldest, newest in rows
        ]

    async def namespaces(self, group_id: str, limit: int, after: tuple[str, int] | None) -> Sequence[NamespaceInfo]:
        """See `MemoryStore`."""
        async with self._database.read() as connection:
            return await list_namespaces(connection, group_id, limit, after)

    async def sweep(self, now: datetime) -> int:
        """Remove what has expired in all namespaces, and return how many records."""
        removed = 0
        for kind in (MemoryKind.SHORT_TERM,):
            table = records[kind]
            expired = table.c.expires_us <= microseconds(now)
            async with self._database.read() as connection:
                ids = (await connection.scalars(select(table.c.namespace_id).where(expired).distinct())).all()
            for namespace_id in ids:
                async with self._database.write() as connection:
                    version = await raise_version(connection, namespace_id)
                    statement = delete(table).where(table.c.namespace_id == namespace_id, expired)
                    deleted = (await connection.execute(statement)).rowcount
                    await record_removal(connection, namespace_id, version, deleted)
                    removed += deleted
        return removed

    def _clauses(self, key: NamespaceKey, chosen: Filter, now: datetime) -> list[ColumnElement[bool]]:
        table = records[key.kind]
        return [
            owned(table, key),
            alive(table, microseconds(now)),
            *filtered(table, key.kind, chosen, self._database.dialect),
        ]

    async def _best(
        self, connection: AsyncConnection, namespace: NamespaceInfo, query: Query, now_us: int
    ) -> Candidates:
        if namespace.record_count * namespace.space.dimension * 4 > self._cached_namespace_bytes:
            return await self._scan(connection, namespace, query, now_us)
        block = await self._block(connection, namespace)
        allowed = block.allowed(query.filter, now_us, unified=namespace.key.kind is MemoryKind.UNIFIED)
        if _needs_database(query.filter):
            allowed &= await self._matching(connection, namespace.key, query.filter, now_us, block)
        return await _compute(block, query, allowed, now_us)

    async def _scan(
        self, connection: AsyncConnection, namespace: NamespaceInfo, query: Query, now_us: int
    ) -> Candidates:
        """Search rows as they are read, holding one chunk at a time."""
        key = namespace.key
        table = records[key.kind]
        rest = filters.residual(query.filter)
        extra = [] if rest is None else [table.c[name] for name in filters.columns_needed(key.kind, rest)]
        statement = select(*_vector_columns(table), *extra).where(
            owned(table, key), alive(table, now_us), *filtered(table, key.kind, query.filter, self._database.dialect)
        )
        best = Candidates.none()
        async for chunk in _chunks(connection, statement):
            rows = [row for row in chunk if rest is None or filters.matches(key.kind, rest, row)]
            block = VectorBlock.of([_vector_row(key.kind, row) for row in rows], namespace.space.dimension)
            everything = np.ones(len(block), dtype=np.bool_)
            best = best.merged(await _compute(block, query, everything, now_us), query.limit)
        return best

    async def _block(self, connection: AsyncConnection, namespace: NamespaceInfo) -> VectorBlock:
        """Return the namespace's rows as of its version, or newer."""
        remembered = self._cache.get(namespace.key.id)
        if remembered and remembered[0] == namespace.version:
            return remembered[1]
        async with self._filling.setdefault(namespace.key.id, asyncio.Lock()):
            remembered = self._cache.get(namespace.key.id)
            if remembered and remembered[0] >= namespace.version:
                return remembered[1]
            table = records[namespace.key.kind]
            statement = select(*_vector_columns(table)).where(owned(table, namespace.key))
            if remembered and await removed_since(connection, namespace.key, remembered[0]):
                remembered = None
            if remembered:
                statement = statement.where(table.c.written_version > remembered[0])
            rows = [
                _vector_row(namespace.key.kind, row) async for chunk in _chunks(connection, statement) for row in chunk
            ]
            block = VectorBlock.of(rows, namespace.space.dimension)
            if remembered:
                block = remembered[1].updated(block) if len(block) else remembered[1]
            self._cache.put(namespace.key.id, namespace.version, block)
            return block

    async def _matching(
        self, connection: AsyncConnection, key: NamespaceKey, chosen: Filter, now_us: int, block: VectorBlock
    ) -> Mask:
        """Tell of each row of a block whether it matches, by asking the database."""
        table = records[key.kind]
        rest = filters.residual(chosen)
        extra = [] if rest is None else [table.c[name] for name in filters.columns_needed(key.kind, rest)]
        statement = select(table.c[Column.ID], *extra).where(
            owned(table, key), alive(table, now_us), *filtered(table, key.kind, chosen, self._database.dialect)
        )
        ids = [
            row[Column.ID].encode()
            async for chunk in _chunks(connection, statement)
            for row in chunk
            if rest is None or filters.matches(key.kind, rest, row)
        ]
        mask: Mask = np.isin(block.ids, np.array(ids, dtype="S64"))
        return mask

    async def _by_stored_id(
        self,
        connection: AsyncConnection,
        key: NamespaceKey,
        ids: Sequence[str],
        *,
        embeddings: bool,
        now_us: int | None = None,
    ) -> dict[str, Record]:
        table = records[key.kind]
        clauses = [owned(table, key)] + ([] if now_us is None else [alive(table, now_us)])
        found: dict[str, Record] = {}
        for part in _parts(ids, _IDS_IN_STATEMENT):
            statement = select(*_columns(table, embeddings=embeddings)).where(*clauses, table.c[Column.ID].in_(part))
            rows = await _fetch(connection, statement)
            found.update(zip((row[Column.ID] for row in rows), self._parse(key, rows), strict=True))
        return found

    def _parse(self, key: NamespaceKey, rows: Sequence[Row]) -> list[Record]:
        """Turn rows to records; that each is the namespace's own is checked once more."""
        for row in rows:
            if row[Column.GROUP_ID] != key.group_id or row.get(Column.CREW_ID, key.crew_id) != key.crew_id:
                _log.critical("a statement returned a row of another owner", kind=key.kind.name)
                raise AssertionError("a statement returned a row of another owner")
        return [parse_row(key.kind, row) for row in rows]


def _needs_database(chosen: Filter) -> bool:
    """Tell whether a filter asks for more than what is remembered of rows."""
    return bool(chosen.conditions or chosen.categories or chosen.metadata)


def _found(best: Candidates, by_id: Mapping[str, Record]) -> list[Found]:
    """Return the candidates whose records are still there."""
    return [
        Found(by_id[stored_id], score, similarity)
        for stored_id, score, similarity in zip(
            (stored_id.decode() for stored_id in best.ids.tolist()),
            best.scores.tolist(),
            best.similarities.tolist(),
            strict=True,
        )
        if stored_id in by_id
    ]


async def _compute(block: VectorBlock, query: Query, allowed: Mask, now_us: int) -> Candidates:
    if block.matrix.size > _COMPONENTS_IN_LOOP:
        return await asyncio.to_thread(nearest, block, query, allowed, now_us)
    return nearest(block, query, allowed, now_us)


async def _created_times(
    connection: AsyncConnection, table: Table, key: NamespaceKey, ids: Sequence[str]
) -> dict[str, datetime]:
    times: dict[str, datetime] = {}
    for part in _parts(ids, _IDS_IN_STATEMENT):
        statement = select(table.c[Column.ID], table.c.created_us).where(
            owned(table, key), table.c[Column.ID].in_(part)
        )
        times.update({row[0]: moment_of(row[1]) for row in await connection.execute(statement)})
    return times


def _stored_row(
    key: NamespaceKey, space: EmbeddingSpace, record: Record, version: int, created: datetime
) -> dict[str, Any]:
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


async def _matching_among(
    connection: AsyncConnection, key: NamespaceKey, ids: Sequence[str], rest: Filter
) -> list[str]:
    table = records[key.kind]
    columns = [table.c[name] for name in filters.columns_needed(key.kind, rest)]
    found: list[str] = []
    for part in _parts(ids, _IDS_IN_STATEMENT):
        statement = select(table.c[Column.ID], *columns).where(owned(table, key), table.c[Column.ID].in_(part))
        rows = await _fetch(connection, statement)
        found.extend(row[Column.ID] for row in rows if filters.matches(key.kind, rest, row))
    return found


async def _delete_ids(
    connection: AsyncConnection, table: Table, clauses: Sequence[ColumnElement[bool]], ids: Sequence[str]
) -> int:
    deleted = 0
    for part in _parts(ids, _IDS_IN_STATEMENT):
        deleted += (await connection.execute(delete(table).where(*clauses, table.c[Column.ID].in_(part)))).rowcount
    return deleted


async def _delete_in_chunks(
    connection: AsyncConnection, key: NamespaceKey, clauses: Sequence[ColumnElement[bool]], rest: Filter
) -> int:
    table = records[key.kind]
    columns = [table.c[Column.ID], table.c.created_us]
    columns += [table.c[name] for name in filters.columns_needed(key.kind, rest)]
    deleted, position = 0, None
    while True:
        statement = _newest_first(table, columns, clauses, position, _ROWS_IN_CHUNK)
        rows = await _fetch(connection, statement)
        doomed = [row[Column.ID] for row in rows if filters.matches(key.kind, rest, row)]
        deleted += await _delete_ids(connection, table, clauses, doomed)
        if len(rows) < _ROWS_IN_CHUNK:
            return deleted
        position = _position(rows[-1])


def _newest_first(
    table: Table,
    columns: Sequence[ColumnElement[Any]],
    clauses: Sequence[ColumnElement[bool]],
    after: ListPosition | None,
    limit: int,
) -> Select[Any]:
    order = (table.c.created_us, table.c[Column.ID])
    statement = select(*columns).where(*clauses)
    if after is not None:
        statement = statement.where(tuple_(*order) < tuple_(after.created, after.stored_id))
    return statement.order_by(*(column.desc() for column in order)).limit(limit)


def _position(row: Row) -> ListPosition:
    return ListPosition(row["created_us"], row[Column.ID])


def _columns(table: Table, *, embeddings: bool) -> list[ColumnElement[Any]]:
    return [column for column in table.c if embeddings or column.name != Column.EMBEDDING]


def _vector_columns(table: Table) -> list[ColumnElement[Any]]:
    special = (Column.ID, Column.EMBEDDING, Column.IMPORTANCE, Column.PRIVATE, Column.SOURCE, Column.SCOPE)
    return [table.c[name] for name in special if name in table.c] + [table.c.created_us, table.c.expires_us]


def _vector_row(kind: MemoryKind, row: Row) -> VectorRow:
    unified = kind is MemoryKind.UNIFIED
    return VectorRow(
        stored_id=row[Column.ID],
        embedding=row[Column.EMBEDDING],
        created_us=row["created_us"],
        expires_us=row["expires_us"],
        importance=row[Column.IMPORTANCE] if has_column(kind, Column.IMPORTANCE) else 0.0,
        private=unified and row[Column.PRIVATE],
        source=row[Column.SOURCE] if unified else "",
        scope=row[Column.SCOPE] if unified else "",
    )


async def _fetch(connection: AsyncConnection, statement: Select[Any]) -> Sequence[Row]:
    return cast("Sequence[Row]", (await connection.execute(statement)).mappings().all())


async def _chunks(connection: AsyncConnection, statement: Select[Any]) -> AsyncIterator[Sequence[Row]]:
    """Read a result chunk by chunk; it is one snapshot however long that takes."""
    result = await connection.stream(statement.execution_options(yield_per=_ROWS_IN_CHUNK))
    async for chunk in result.mappings().partitions():
        yield cast("Sequence[Row]", chunk)


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
