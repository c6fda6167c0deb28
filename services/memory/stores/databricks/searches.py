"""Searches of an index by vectors: what the workspace cannot decide of a filter is decided here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.memory.domain.filters import Filter
from services.memory.domain.records import Record
from services.memory.domain.scores import ScoreMeasure
from services.memory.domain.vectors import Vector
from services.memory.rows.columns import Column, DatabricksIndexSchemas
from services.memory.rows.reader import RecordReader
from services.memory.rows.values import read_text
from services.memory.stores.databricks.filter_language import Owner, handed_over, is_safe, keys_clause, owner_clauses
from services.memory.stores.databricks.queries import MAX_RESULTS, IndexQueries
from services.memory.stores.databricks.row_checks import is_owned, passes
from services.memory.stores.databricks.upstream_errors import bad_answer
from services.memory.stores.databricks.wire import SCORE, is_no_score

_MOST_READ_OF_QUERY = 8000
"""Characters of a text that a reranking model is given: it reads fewer."""
_SPARE_ROWS = 4
"""Rows requested beyond what is looked for where few are sorted out."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that was found, the memory id under which it is stored, and its cosine similarity."""

    record: Record
    memory_id: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Hits:
    """What a search found, best first."""

    hits: Sequence[Hit]
    truncated: bool
    """Whether there are more of the owner's rows than could be read: others may match too."""
    unreadable: int = 0
    """Rows among the results that are no records and were left out."""


@dataclass(frozen=True, slots=True)
class IndexSearches:
    """The searches of one location."""

    queries: IndexQueries
    scores: ScoreMeasure
    """How the workspace computes scores."""

    async def similarity_search(
        self,
        index: str,
        owner: Owner,
        vector: Vector,
        chosen: Filter,
        limit: int,
        now: datetime,
        *,
        embeddings: bool,
        min_score: float | None = None,
    ) -> Hits:
        """Find the owner's records nearest to a vector that match and are as similar as `min_score`, at most `limit`.

        What the store cannot decide of the filter is decided here, on as many of the nearest rows as it takes, up to
        the 10,000 that a query can return.
        """
        handed = handed_over(owner, chosen)
        columns = DatabricksIndexSchemas.get_search_columns(owner.kind)
        if embeddings:
            columns.append(Column.EMBEDDING)
        spare = limit + _SPARE_ROWS if handed.but_private else 100 + 4 * limit
        requested = limit if handed.whole else min(MAX_RESULTS, spare)
        threshold = None if min_score is None else self.scores.threshold(min_score)
        while True:
            hits: list[Hit] = []
            reader = RecordReader(owner.kind, "databricks")
            received = 0
            async for row in self.queries.rows(
                index, handed.clauses, vector, requested, columns=columns, threshold=threshold
            ):
                received += 1
                if is_no_score(row.get(SCORE)):
                    if is_owned(owner, row):
                        reader.leave_out(1, "its vector cannot be compared")
                    continue
                similarity = self._cosine(row.get(SCORE))
                if min_score is not None and similarity < min_score:
                    return Hits(hits, truncated=False, unreadable=reader.unreadable)
                if not is_owned(owner, row) or not passes(owner.kind, chosen, row, now):
                    continue
                record = reader.read(row)
                if record is not None:
                    hits.append(Hit(record, read_text(row.get(Column.CREW_ID)), similarity))
                if len(hits) == limit:
                    return Hits(hits, truncated=False, unreadable=reader.unreadable)
            if received < requested or requested == MAX_RESULTS:
                return Hits(hits, truncated=received >= MAX_RESULTS, unreadable=reader.unreadable)
            requested = min(MAX_RESULTS, 10 * requested)

    async def reranked(
        self, index: str, owner: Owner, text: str, columns: Sequence[str], stored_ids: Sequence[str]
    ) -> list[str]:
        """Return the stored ids of at most 50 of the owner's rows in the order of the workspace's reranking model.

        Those that it does not return come last, as they are given.
        """
        judged = list(stored_ids)
        if not all(map(is_safe, judged)) and await self.queries.takes_text() is not False:
            # Keys of rows that something else has written, which the string language may not be able to hold.
            judged = [stored_id for stored_id in judged if is_safe(stored_id)]
        order: dict[str, None] = {}
        if judged:
            clauses = [*owner_clauses(owner), keys_clause(judged)]
            names = [clause.column for clause in clauses]
            found = self.queries.reranked(
                index, clauses, text[:_MOST_READ_OF_QUERY], columns, len(judged), columns=names
            )
            async for row in found:
                if is_owned(owner, row) and row[Column.ID] in judged:
                    order[row[Column.ID]] = None
        return list(order | dict.fromkeys(stored_ids))

    def _cosine(self, score: object) -> float:
        try:
            return self.scores.formula.cosine(score)
        except ValueError:
            raise bad_answer(self.queries.location.workspace_url) from None
