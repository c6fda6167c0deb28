"""How pgvector computes scores of a namespace's records: statements for the best of them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from sqlalchemy import ColumnElement, Float, LargeBinary, Select, and_, cast, func, literal, or_, select

from services.memory import filters
from services.memory.domain.moments import DAY_US, microseconds
from services.memory.domain.namespaces import NamespaceInfo
from services.memory.domain.searches import Query
from services.memory.rows.columns import Column, has_column
from services.memory.stores.sql.statements import living, owned, row_columns
from services.memory.tables import records

SCORE: Final = "score"
SIMILARITY: Final = "similarity"
_NO_RECENCY: Final = 1000.0
"""Half-lives after which nothing is left: PostgreSQL refuses powers that are too small."""


class Scoring:
    """The statements of one search."""

    def __init__(self, namespace: NamespaceInfo, query: Query, now_us: int) -> None:
        self._key = namespace.key
        self._kind = namespace.key.kind
        self._table = records[self._kind]
        self._query = query
        self._dimension = namespace.space.dimension
        self._rest = filters.residual(query.filter)
        self._clauses = [
            owned(self._table, namespace.key),
            # A row that something else has written must not make all others unreachable.
            func.vector_dims(self._table.c[Column.EMBEDDING]) == self._dimension,
            *living(namespace.key, query.filter, now_us, "postgresql"),
        ]
        asked_us = microseconds(query.asked_at) if query.asked_at else now_us
        self._asked_us = float(asked_us)
        self._vector = literal(np.asarray(query.vector, dtype="<f4").tobytes(), LargeBinary())

    def nearest(self) -> Select[Any]:
        """Return the statement that compares all rows, without a limit: id, score and similarity, best first."""
        clauses = list(self._clauses)
        if self._query.min_score is not None:
            clauses.append(self._similarity(self._table) >= literal(self._query.min_score, Float(53)))
        return self._scored(self._table, clauses)

    def nearest_records(self) -> Select[Any]:
        """Return the statement for the best records themselves, for a filter that SQL decides alone."""
        best = self.nearest().limit(self._query.limit).subquery()
        columns = row_columns(self._table, embeddings=self._query.include_embeddings)
        return (
            select(*columns, best.c[SCORE], best.c[SIMILARITY])
            .join(best, best.c[Column.ID] == self._table.c[Column.ID])
            .where(owned(self._table, self._key))
            .order_by(best.c[SCORE].desc(), best.c[Column.ID].collate("C"))
        )

    @property
    def _ranked_columns(self) -> list[str]:
        return [Column.IMPORTANCE] if has_column(self._kind, Column.IMPORTANCE) else []

    @property
    def _rest_columns(self) -> Sequence[str]:
        return [] if self._rest is None else filters.columns_needed(self._kind, self._rest)

    def _scored(self, source: Any, clauses: Sequence[ColumnElement[bool]]) -> Select[Any]:
        """Return the statement for ids, scores and similarities of rows, best first, and what the filter looks at."""
        query = self._query
        similarity = self._similarity(source)
        score = self._blended(source, similarity) if query.ranking is not None else similarity
        where = list(clauses)
        stored_id = source.c[Column.ID].collate("C")
        if query.after is not None:
            last_score, last_id = literal(query.after.score, Float(53)), query.after.stored_id
            # The last result itself never comes again, should its score be computed a little lower than before.
            before = and_(score < last_score, source.c[Column.ID] != last_id)
            where.append(or_(before, and_(score == last_score, stored_id > last_id)))
        more = [source.c[name] for name in self._rest_columns]
        columns = [source.c[Column.ID], score.label(SCORE), similarity.label(SIMILARITY), *more]
        return select(*columns).where(*where).order_by(score.desc(), stored_id)

    def _similarity(self, source: Any) -> ColumnElement[float]:
        # pgvector's operator gives the negative of the inner product.
        product = -source.c[Column.EMBEDDING].op("<#>", return_type=Float(53))(self._vector)
        return func.least(1.0, func.greatest(-1.0, product, type_=Float(53)), type_=Float(53))

    def _blended(self, source: Any, similarity: ColumnElement[float]) -> ColumnElement[float]:
        ranking = self._query.ranking
        assert ranking is not None
        age_days = (literal(self._asked_us, Float(53)) - cast(source.c.created_us, Float(53))) / float(DAY_US)
        lives = func.least(func.greatest(age_days, 0.0) / ranking.half_life_days, _NO_RECENCY)
        blended = ranking.semantic_weight * similarity + ranking.recency_weight * func.power(
            literal(2.0, Float(53)), -lives, type_=Float(53)
        )
        for name in self._ranked_columns:
            blended = blended + ranking.importance_weight * source.c[name]
        return blended / (ranking.semantic_weight + ranking.recency_weight + ranking.importance_weight)
