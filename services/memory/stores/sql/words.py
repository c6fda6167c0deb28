"""Words of the default store's records: kept beside them in the same transaction, and looked for in SQL."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, cast, column, func, literal, not_, select, table, union, union_all
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.ext.asyncio import AsyncConnection

from services.memory import filters
from services.memory.domain.filters import Filter
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.words import Term, TermWeights, words_of
from services.memory.rows.columns import Column
from services.memory.stores.sql.statements import (
    TEXTS_IN_CHUNK,
    chunks,
    living,
    named,
    owned,
    visible,
)
from services.memory.stores.sql.writes import write_rows
from services.memory.tables import record_words, records

_FTS = table("record_words_fts", column("rowid"), column("record_words_fts"))
"""SQLite's index of the words. Its hidden column of the same name is what can be matched."""


async def store_words(connection: AsyncConnection, namespace_id: str, words: Mapping[str, str]) -> None:
    """Keep the words of records by stored id, as `written_words` wrote them, instead of those kept before."""
    rows = [
        {"record_id": stored_id, "namespace_id": namespace_id, "words": written} for stored_id, written in words.items()
    ]
    # Some may be left of records that something else has removed.
    await write_rows(
        connection, record_words, "record_id", rows, frozenset(), record_words.c.namespace_id == namespace_id
    )


def written_words(namespace_id: str, records: Sequence[Record], dialect: str) -> list[str]:
    """Return the words of each record as the index takes them. To be called in a thread: many texts take their time."""
    write = _plain_words if dialect == "sqlite" else _lexemes
    return [write(namespace_id, words_of(record.searched_text)) for record in records]


def _plain_words(_namespace_id: str, words: Sequence[str]) -> str:
    return " ".join(words)


def _lexemes(namespace_id: str, words: Sequence[str]) -> str:
    """Return the words as a tsvector, made here: PostgreSQL's parser would take words apart in its own way.

    The namespace is one of them, so that the index alone leads to the namespace's own rows.
    """
    positions: dict[str, list[str]] = {}
    for place, word in enumerate(words, start=1):
        positions.setdefault(word, []).append(str(place))
    # PostgreSQL keeps 255 positions of a word.
    lexemes = [f"'{word}':{','.join(places[:255])}" for word, places in positions.items()]
    return " ".join([f"'{_namespace_word(namespace_id)}'", *lexemes])


def _namespace_word(namespace_id: str) -> str:
    return f"/{namespace_id}"


class WordIndex:
    """Looks for words in one namespace within a transaction that reads."""

    def __init__(self, connection: AsyncConnection, namespace: NamespaceInfo, dialect: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._dialect = dialect

    async def weights(self, terms: Sequence[Term], chosen: Filter, now_us: int) -> TermWeights:
        """Return how much terms count among the namespace's records that a filter's caller sees.

        The rest of the filter does not matter, nor do other namespaces' records: scores say nothing of what is hidden.
        """
        hidden = self._hidden(chosen, now_us).cte("hidden")
        every = select(literal(-1).label("place"), func.count().label("records")).select_from(hidden)
        found = [self._matching(term).subquery() for term in terms]
        counted = union_all(
            every,
            *(
                select(literal(place), func.count())
                .select_from(hits.outerjoin(hidden, hidden.c.doc == hits.c.doc))
                .where(hidden.c.doc.is_(None))
                for place, hits in enumerate(found)
            ),
        )
        counts = {row.place: row.records for row in await self._connection.execute(counted)}
        seen = max(0, self._namespace.record_count - counts.pop(-1))
        return TermWeights.of({terms[place]: count for place, count in counts.items()}, seen)

    def _hidden(self, chosen: Filter, now_us: int) -> Select[Any]:
        """Return the statement for the rows the filter's caller does not see: others' private ones, and expired."""
        key = self._namespace.key
        own = records[key.kind]
        rows = select(own.c[Column.ID]).where(owned(own, key))
        # Two statements, as each finds its rows without reading the others'.
        hidden = [rows.where(own.c.expires_us <= now_us)]
        if key.kind is MemoryKind.UNIFIED and not chosen.include_private:
            private = rows.where(own.c[Column.PRIVATE].is_(True))
            seen = and_(*visible(own, chosen))
            hidden.append(private.where(not_(seen)))
        ids = union(*hidden).subquery()
        return select(record_words.c.doc).join(ids, ids.c[Column.ID] == record_words.c.record_id)

    async def best(
        self, weights: TermWeights, chosen: Filter, limit: int, now_us: int
    ) -> tuple[list[str], list[float]]:
        """Return the stored ids of the best records that match a filter, and their scores."""
        if not weights.weights:
            return [], []
        key = self._namespace.key
        rest = filters.residual(chosen)
        statement = self._ranked(key, weights, chosen, now_us, rest)
        ids: list[str] = []
        scores: list[float] = []
        if rest is None:
            statement = statement.limit(limit)
        async for chunk in chunks(self._connection, statement, TEXTS_IN_CHUNK):
            for row in await asyncio.to_thread(_those_that_match, key.kind, rest, chunk):
                ids.append(row[0])
                scores.append(weights.score(int(row[1])))
            if len(ids) >= limit:
                break
        return ids[:limit], scores[:limit]

    def _ranked(
        self, key: NamespaceKey, weights: TermWeights, chosen: Filter, now_us: int, rest: Filter | None
    ) -> Select[Any]:
        own = records[key.kind]
        hits = union_all(
            *(
                self._matching(term).add_columns(literal(weight).label("weight"))
                for term, weight in weights.weights.items()
            )
        ).subquery()
        total = func.sum(hits.c.weight).label("total")
        summed = select(hits.c.doc, total).group_by(hits.c.doc).subquery()
        more = [] if rest is None else [own.c[name] for name in filters.columns_needed(key.kind, rest)]
        return (
            select(own.c[Column.ID], summed.c.total, *more)
            .select_from(summed)
            .join(record_words, record_words.c.doc == summed.c.doc)
            .join(own, own.c[Column.ID] == record_words.c.record_id)
            .where(owned(own, key), *living(key, chosen, now_us, self._dialect))
            .order_by(summed.c.total.desc(), own.c.created_us.desc(), own.c[Column.ID])
        )

    def _matching(self, term: Term) -> Select[Any]:
        """Return the statement for the rows of the namespace that have a term."""
        namespace_id = self._namespace.key.id
        if self._dialect == "sqlite":
            wanted = f'namespace_id : "{namespace_id}" AND words : "{" ".join(term)}"'
            return select(_FTS.c.rowid.label("doc")).where(_FTS.c.record_words_fts.op("MATCH")(wanted))
        in_a_row = " <-> ".join(f"'{word}'" for word in term)
        wanted = f"'{_namespace_word(namespace_id)}' & ({in_a_row})"
        matches: ColumnElement[bool] = record_words.c.words.op("@@")(cast(wanted, TSQUERY))
        return select(record_words.c.doc).where(record_words.c.namespace_id == namespace_id, matches)


def _those_that_match(kind: MemoryKind, rest: Filter | None, rows: Sequence[Any]) -> Sequence[Any]:
    """Return the rows a filter asks for. To be called in a thread: many texts take their time."""
    return rows if rest is None else [row for row in rows if filters.matches(kind, rest, named(row))]
