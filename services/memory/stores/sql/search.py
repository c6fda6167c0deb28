"""Exact search of the default store: on what is remembered of a namespace, or on rows as they are read."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

import numpy as np
import structlog
from sqlalchemy import Select, select
from sqlalchemy.engine import Row as DatabaseRow
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.memory import filters
from services.memory.domain.filters import Filter
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.owners import owner_of
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.searches import Found, Query, SearchOutcome
from services.memory.domain.vectors import embedding_mismatch
from services.memory.repositories.namespaces import NamespaceRepository, version_read
from services.memory.rows.columns import Column
from services.memory.rows.row import Row
from services.memory.stores.sql.blocks import Mask, VectorBlock
from services.memory.stores.sql.recent_masks import RecentMasks
from services.memory.stores.sql.remembered_blocks import COMPONENTS_IN_LOOP, RememberedBlocks, bytes_of
from services.memory.stores.sql.rows import (
    RECORDS_AT_ONCE,
    parse_rows,
    read_records,
    vector_block,
    vector_columns,
)
from services.memory.stores.sql.shortlist import Shortlist, shortlist
from services.memory.stores.sql.shortlist_vectors import Fetch, best_of_shortlist
from services.memory.stores.sql.statements import (
    NAMESPACE_VERSION,
    ROWS_IN_CHUNK,
    TEXTS_IN_CHUNK,
    VECTORS_IN_CHUNK,
    WINNERS,
    chunks,
    living,
    named,
    owned,
    owner_parameters,
    winners,
)
from services.memory.stores.sql.vectors import Candidates, nearest
from services.memory.tables import records

logger = structlog.get_logger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_ATTEMPTS = 3


class VectorSearch:
    """Computes on the rows it remembers for a version of the namespace, which it reads to prove them current.

    Rows written since are added to them, and removed ones marked. What does not fit the bounds is computed chunk by
    chunk.
    """

    def __init__(self, database: Database, *, cache_bytes: int, cached_namespace_bytes: int) -> None:
        """`cache_bytes` bounds what is remembered in all, `cached_namespace_bytes` what of one namespace."""
        self._database = database
        self._blocks = RememberedBlocks(
            database, cache_bytes=cache_bytes, cached_namespace_bytes=cached_namespace_bytes
        )
        self._records = self._blocks.records
        self._masks = RecentMasks()
        self._version = version_read(database)

    def note_removal(self, namespace_id: str, version: int, previous: int, ids: Sequence[str]) -> None:
        """See `RememberedBlocks`."""
        self._blocks.note_removal(namespace_id, version, previous, ids)

    def note_touch(self, namespace_id: str, version: int, ids: Sequence[str]) -> None:
        """See `RememberedBlocks`."""
        self._blocks.note_touch(namespace_id, version, ids)

    def forget(self, namespace_id: str) -> None:
        """See `RememberedBlocks`."""
        self._blocks.forget(namespace_id)

    async def search(self, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome:
        """See `MemoryStore`."""
        at_once = await self._search_remembered(key, query, now)
        if at_once is not None:
            return SearchOutcome(at_once)
        found: list[Found] = []
        scanned, cut = 0, False
        for attempt in range(_ATTEMPTS):
            async with self._database.read() as connection:
                namespace = await NamespaceRepository(connection).get(key)
                if namespace is None:
                    return SearchOutcome()
                if len(query.vector) != namespace.space.dimension:
                    raise embedding_mismatch(namespace.space, "", len(query.vector))
                best = None
                if self._blocks.takes(namespace):
                    best = await self._best(connection, namespace, query, microseconds(now))
                    if best is None and attempt + 1 < _ATTEMPTS and await self._has_moved(namespace):
                        continue
                if best is None:
                    best, read = await self._scan(connection, namespace, query, microseconds(now))
                    scanned += read
                ids = _ids(best)
                # What is remembered decides who is nearest, the rows themselves whose private ones are shown.
                seen = living(key, filters.visibility(query.filter), microseconds(now), self._database.dialect)
                by_id, looked_up = await read_records(
                    connection, key, ids, embeddings=query.include_embeddings, clauses=seen
                )
            found, cut = _found(best, by_id), looked_up < len(ids)
            # A winner removed between the two statements leaves its place to the next one.
            if len(found) == looked_up:
                break
        return SearchOutcome(found, scanned=scanned, cut=cut)

    async def _search_remembered(self, key: NamespaceKey, query: Query, now: datetime) -> Sequence[Found] | None:
        """Search what is remembered, once it is up to date; None where that takes a transaction."""
        if _needs_database(query.filter) or query.limit > RECORDS_AT_ONCE:
            return None
        for _ in range(_ATTEMPTS):
            remembered = self._blocks.get(key)
            if remembered is None or remembered[1].dimension != len(query.vector):
                return None
            found = await self._search_block(key, *remembered, query, now)
            if found is not None:
                return found
            if not await self._blocks.catch_up(key):
                return None
        return None

    async def _search_block(
        self, key: NamespaceKey, version: int, block: VectorBlock, query: Query, now: datetime
    ) -> Sequence[Found] | None:
        """Search a block, and prove it current; None: it is not, or the database has to say who sees what is found.

        Most searches find nothing changed. They cost one statement, which reads the winners too, and only a look-up by
        key where the winners are remembered. Much is not computed before it is known to be of use.
        """
        proven = block.components > COMPONENTS_IN_LOOP
        if proven and not await self._is_current(key, version):
            return None
        best = await self._nearest(self._database.fetch_raw, key, version, block, query, microseconds(now))
        if best is None:
            return None
        ids = _ids(best)
        by_id = {} if query.include_embeddings else self._records.of(key.id, version, ids)
        unknown = [stored_id for stored_id in ids if stored_id not in by_id]
        if unknown:
            rows = await self._database.fetch_raw(
                winners(key.kind, embeddings=query.include_embeddings), {**owner_parameters(key), WINNERS: unknown}
            )
            if not rows or rows[0][NAMESPACE_VERSION] != version:
                return None
            read = parse_rows(key, [row for row in rows if row[Column.ID] is not None])
            by_id |= read
            if not query.include_embeddings:
                self._records.put(key.id, version, read)
        elif not proven and not await self._is_current(key, version):
            return None
        return _found(best, by_id) if _all_seen(query.filter, by_id) else None

    async def _has_moved(self, namespace: NamespaceInfo) -> bool:
        """Return whether what is remembered is not as of a namespace's version, or was not any more a moment ago."""
        remembered = self._blocks.get(namespace.key)
        if remembered is None:
            return False
        return remembered[0] != namespace.version or not await self._is_current(namespace.key, namespace.version)

    async def _is_current(self, key: NamespaceKey, version: int) -> bool:
        proof = await self._version.fetch(key.id, key.group_id)
        return proof is not None and proof[0] == version

    async def _best(
        self, connection: AsyncConnection, namespace: NamespaceInfo, query: Query, now_us: int
    ) -> Candidates | None:
        """Return the best rows of what is remembered; None where the rows themselves have to be compared."""
        key = namespace.key
        version, block = await self._blocks.read(connection, namespace)
        matching: Mask | None = None
        if _needs_database(query.filter):
            matching = await self._matching(connection, key, query.filter, now_us, block)

        async def fetch(statement: Select[Any], parameters: Mapping[str, Any]) -> Sequence[Row]:
            return [named(row) for row in await connection.execute(statement, parameters)]

        return await self._nearest(fetch, key, version, block, query, now_us, matching)

    async def _nearest(
        self,
        fetch: Fetch,
        key: NamespaceKey,
        version: int,
        block: VectorBlock,
        query: Query,
        now_us: int,
        matching: Mask | None = None,
    ) -> Candidates | None:
        """Return the best of a block's rows that the filter allows and `matching` has.

        The vectors that a quantised block leaves open are read. None: it is not current, or leaves open too many.
        """
        unified = key.kind is MemoryKind.UNIFIED
        if block.quantised is None:
            return await _compute(block, _nearest_allowed, block, query, now_us, unified, matching)
        listed = await _compute(block, _shortlist_allowed, block, query, now_us, unified, matching)
        return await best_of_shortlist(fetch, key, version, block, listed, query, now_us)

    async def _scan(
        self, connection: AsyncConnection, namespace: NamespaceInfo, query: Query, now_us: int
    ) -> tuple[Candidates, int]:
        """Search rows as they are read, holding one chunk at a time; return their number too."""
        key, dimension = namespace.key, namespace.space.dimension
        rest = filters.residual(query.filter)
        columns = vector_columns(key.kind) + _residual_columns(key.kind, rest)
        statement = select(*columns).where(
            owned(records[key.kind], key), *living(key, query.filter, now_us, self._database.dialect)
        )

        def best_of(rows: Sequence[DatabaseRow[Any]]) -> Candidates:
            matching = [row for row in rows if rest is None or filters.matches(key.kind, rest, named(row))]
            block = vector_block(key.kind, matching, dimension)
            return nearest(block, query, np.ones(len(block), dtype=np.bool_), now_us)

        best, scanned, started = Candidates.none(), 0, time.perf_counter()
        async for chunk in chunks(connection, statement, VECTORS_IN_CHUNK if rest is None else TEXTS_IN_CHUNK):
            scanned += len(chunk)
            best = best.merged(await asyncio.to_thread(best_of, chunk), query.limit)
        logger.warning(
            "search_scanned_namespace",
            kind=key.kind.name,
            records=scanned,
            seconds=round(time.perf_counter() - started, 3),
            namespace_bytes=bytes_of(namespace.record_count, dimension),
            cached_namespace_bytes=self._blocks.namespace_bytes,
        )
        return best, scanned

    async def _matching(
        self, connection: AsyncConnection, key: NamespaceKey, chosen: Filter, now_us: int, block: VectorBlock
    ) -> Mask:
        """Return a mask of matching rows, which the database decides."""
        known = self._masks.get(block, chosen, now_us)
        if known is not None:
            return known
        rest = filters.residual(chosen)
        table = records[key.kind]
        statement = select(table.c[Column.ID], *_residual_columns(key.kind, rest)).where(
            owned(table, key), *living(key, chosen, now_us, self._database.dialect)
        )

        def matching(rows: Sequence[DatabaseRow[Any]]) -> list[bytes]:
            return [row[0].encode() for row in rows if rest is None or filters.matches(key.kind, rest, named(row))]

        ids: list[bytes] = []
        async for chunk in chunks(connection, statement, ROWS_IN_CHUNK if rest is None else TEXTS_IN_CHUNK):
            ids += await asyncio.to_thread(matching, chunk)
        mask: Mask = await asyncio.to_thread(np.isin, block.ids, np.array(ids, dtype="S64"))
        self._masks.put(block, chosen, now_us, mask)
        return mask


def _needs_database(chosen: Filter) -> bool:
    """Return whether a filter asks for more than what is remembered of rows."""
    if chosen.owner and not chosen.include_private:
        return True
    return bool(
        chosen.conditions
        or chosen.categories
        or chosen.all_categories
        or chosen.metadata
        or chosen.subject
        or chosen.expression
    )


def _all_seen(chosen: Filter, by_id: Mapping[str, Record]) -> bool:
    """Return whether no record is private, unless all are asked for: one of the caller's own takes the database."""
    return chosen.include_private or all(owner_of(record) is None for record in by_id.values())


def _residual_columns(kind: MemoryKind, rest: Filter | None) -> list[Any]:
    return [] if rest is None else [records[kind].c[name] for name in filters.columns_needed(kind, rest)]


def _ids(best: Candidates) -> list[str]:
    return [stored_id.decode() for stored_id in best.ids.tolist()]


def _found(best: Candidates, by_id: Mapping[str, Record]) -> list[Found]:
    """Return the candidates whose records are still there."""
    ranked = zip(_ids(best), best.scores.tolist(), best.similarities.tolist(), strict=True)
    return [Found(by_id[stored_id], score, similarity) for stored_id, score, similarity in ranked if stored_id in by_id]


def _nearest_allowed(block: VectorBlock, query: Query, now_us: int, unified: bool, matching: Mask | None) -> Candidates:
    return nearest(block, query, _allowed(block, query, now_us, unified, matching), now_us)


def _shortlist_allowed(
    block: VectorBlock, query: Query, now_us: int, unified: bool, matching: Mask | None
) -> Shortlist:
    return shortlist(block, query, _allowed(block, query, now_us, unified, matching), now_us)


def _allowed(block: VectorBlock, query: Query, now_us: int, unified: bool, matching: Mask | None) -> Mask:
    allowed = block.allowed(query.filter, now_us, unified=unified)
    return allowed if matching is None else allowed & matching


async def _compute(
    block: VectorBlock, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Call a function that computes with a block; off the event loop if that is large."""
    if block.components > COMPONENTS_IN_LOOP:
        return await asyncio.to_thread(function, *args, **kwargs)
    return function(*args, **kwargs)
