"""Nearest records by pgvector: exact in small namespaces, by an HNSW index and exact scores in large ones."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, cast, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.memory import filters
from services.memory.domain.filters import Filter
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.domain.searches import Found, Query, SearchOutcome
from services.memory.domain.vectors import embedding_mismatch
from services.memory.repositories.namespaces import fetch_namespace
from services.memory.rows.columns import Column
from services.memory.stores.pgvector.database import BackendDatabase
from services.memory.stores.pgvector.dialect import VectorOf
from services.memory.stores.pgvector.indexes import has_halves, indexed_dimensions
from services.memory.stores.pgvector.scoring import SCORE, SIMILARITY, Scoring
from services.memory.stores.sql.rows import RECORDS_AT_ONCE, parse_rows, read_records
from services.memory.stores.sql.statements import TEXTS_IN_CHUNK, chunks, named

_FILTERED_ROWS: Final = 5
"""An index is as fast as comparing all with a filter from so many times the rows on that it needs without one."""
_LEAST_LOOKED_AT: Final = 200
"""What the index looks at for a search at least, before the filter."""
_LEAST_RANKED: Final = 500
"""The same where recency and importance may put others before the nearest."""
_LEAST_CANDIDATES: Final = 100
_CANDIDATES_PER_RESULT: Final = 4
_MOST_CANDIDATES: Final = 1000
"""The largest hnsw.ef_search there is."""
_ITERATIVE: Final = (0, 8)
"""The version of pgvector since which a scan goes on until the filter has let enough through."""


class PgvectorSearch:
    """Searches one namespace."""

    def __init__(
        self, database: BackendDatabase, need_index: Callable[[NamespaceInfo], None], *, exact_rows: int
    ) -> None:
        """Namespaces of more than `exact_rows` records need an index; `need_index` is told of them."""
        self._database = database
        self._need_index = need_index
        self._exact_rows = exact_rows

    def note_removal(self, namespace_id: str, version: int, previous: int, ids: Sequence[str]) -> None:
        """Nothing is remembered of rows."""

    def note_touch(self, namespace_id: str, version: int, ids: Sequence[str]) -> None:
        """Nothing is remembered of rows."""

    def forget(self, namespace_id: str) -> None:
        """Nothing is remembered of rows."""

    async def search(self, key: NamespaceKey, query: Query, now: datetime) -> SearchOutcome:
        """See `MemoryStore`."""
        namespace = await fetch_namespace(self._database, key)
        if namespace is None:
            return SearchOutcome()
        if len(query.vector) != namespace.space.dimension:
            raise embedding_mismatch(namespace.space, "", len(query.vector))
        is_large = namespace.record_count > self._exact_rows
        if not is_large and query.limit <= RECORDS_AT_ONCE and filters.residual(query.filter) is None:
            return await self._few_nearest(namespace, query, now)
        async with self._database.read() as connection:
            scan = Scan(connection, namespace, query, microseconds(now))
            is_worth = namespace.record_count > self._exact_rows * (_FILTERED_ROWS if scan.is_filtered else 1)
            ranked = await scan.by_index() if is_worth and scan.can_use_index else None
            approximate = ranked is not None
            if ranked is None:
                ranked = await scan.exactly()
            ids = [row[0] for row in ranked]
            by_id, looked_up = await read_records(connection, key, ids, embeddings=query.include_embeddings)
        if is_large:
            self._need_index(namespace)
        found = [Found(by_id[row[0]], float(row[1]), float(row[2])) for row in ranked if row[0] in by_id]
        # Blended scores could put others before those that are nearest.
        truncated = approximate and query.ranking is not None
        return SearchOutcome(found, cut=looked_up < len(ids), truncated=truncated, unreadable=0)

    async def _few_nearest(self, namespace: NamespaceInfo, query: Query, now: datetime) -> SearchOutcome:
        """Compare all rows by one statement that returns whole ones: no transaction is needed for it."""
        rows = await self._database.fetch(Scoring(namespace, query, microseconds(now)).nearest_records())
        by_id = parse_rows(namespace.key, rows)
        return SearchOutcome(
            [Found(by_id[row[Column.ID]], row[SCORE], row[SIMILARITY]) for row in rows if row[Column.ID] in by_id]
        )


class Scan(Scoring):
    """One search within a transaction; rows are id, score and similarity, best first."""

    def __init__(self, connection: AsyncConnection, namespace: NamespaceInfo, query: Query, now_us: int) -> None:
        super().__init__(namespace, query, now_us)
        self._connection = connection
        self._version: tuple[int, ...] = connection.dialect.vector_version  # type: ignore[attr-defined]

    @property
    def is_filtered(self) -> bool:
        """Whether records are left out that the caller may see."""
        return self._query.filter != filters.visibility(self._query.filter)

    @property
    def can_use_index(self) -> bool:
        """Whether candidates help: there are few, and pages after the first go on behind an exact position."""
        few = self._query.limit <= _MOST_CANDIDATES // _CANDIDATES_PER_RESULT
        return few and self._query.after is None and self._dimension <= indexed_dimensions(self._version)

    async def exactly(self) -> list[Any]:
        """Compare all rows."""
        limit, statement = self._query.limit, self.nearest()
        found: list[Any] = []
        async for rows in self._chunks(statement.limit(limit) if self._rest is None else statement):
            found += rows
            if len(found) >= limit:
                break
        return found[:limit]

    async def by_index(self) -> list[Any] | None:
        """Compare the nearest by the index alone; None where these are not enough for the filter."""
        query = self._query
        looked_at = _LEAST_LOOKED_AT if query.ranking is None else _LEAST_RANKED
        looked_at = min(_MOST_CANDIDATES, max(looked_at, _CANDIDATES_PER_RESULT * query.limit))
        goes_on = self._version >= _ITERATIVE
        if not goes_on and self.is_filtered:
            # What the filter takes away of these is not made up for.
            looked_at = _MOST_CANDIDATES
        # A scan that goes on until so many match would read all of the index for more than are needed.
        wanted = (
            looked_at if query.ranking is not None else max(_LEAST_CANDIDATES, _CANDIDATES_PER_RESULT * query.limit)
        )
        settings = {
            "hnsw.ef_search": str(looked_at),
            # The index is for one namespace, which the planner knows only where it looks at parameters.
            "plan_cache_mode": "force_custom_plan",
            **({"hnsw.iterative_scan": "relaxed_order"} if goes_on else {}),
        }
        await self._connection.execute(
            select(*(func.set_config(name, value, literal(True)) for name, value in settings.items()))
        )
        indexed = cast(self._table.c[Column.EMBEDDING], VectorOf(self._dimension, half=has_halves(self._version)))
        names = dict.fromkeys([Column.ID, Column.EMBEDDING, "created_us", *self._ranked_columns, *self._rest_columns])
        target = cast(self._vector, VectorOf(self._dimension, half=has_halves(self._version)))
        nearest = (
            select(*(self._table.c[name] for name in names))
            .where(*self._clauses)
            .order_by(indexed.op("<#>")(target))
            .limit(wanted)
            .subquery()
        )
        found: list[Any] = []
        let_through = 0
        async for rows in self._chunks(self._scored(nearest, [])):
            let_through += len(rows)
            found += [row for row in rows if query.min_score is None or row[2] >= query.min_score]
            if len(found) >= query.limit:
                break
        # Fewer: the filter may have taken the others away, or there are no more. Only the whole namespace tells.
        return found[: query.limit] if let_through >= query.limit else None

    async def _chunks(self, statement: Select[Any]) -> AsyncIterator[Sequence[Any]]:
        """Yield the rows that the filter lets through, some at a time where it has to look at texts."""
        rest = self._rest
        if rest is None:
            yield list(await self._connection.execute(statement))
            return
        async for chunk in chunks(self._connection, statement, TEXTS_IN_CHUNK):
            yield await asyncio.to_thread(_let_through, self._kind, rest, chunk)


def _let_through(kind: MemoryKind, rest: Filter, rows: Sequence[Any]) -> list[Any]:
    """Return the rows a filter asks for. To be called in a thread: many texts take their time."""
    return [row for row in rows if filters.matches(kind, rest, named(row))]
