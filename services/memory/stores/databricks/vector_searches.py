"""Searches of an index by vectors, page by page, ranked by recency and importance where that is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from services.memory.domain.moments import UNKNOWN
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.searches import Found, Query, Ranking, SearchOutcome
from services.memory.domain.vectors import EmbeddingSpace, embedding_mismatch
from services.memory.rows.columns import Column
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.queries import MAX_RESULTS
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.searches import Hit

_RANKED_CANDIDATES = 1000
_DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class VectorSearches:
    """The searches of one backend by vectors."""

    repository: DatabricksVectorIndexRepository
    space: EmbeddingSpace

    async def find(self, index: str, owner: Owner, query: Query, now: datetime) -> SearchOutcome:
        """Find what `MemoryStore.search` does."""
        if len(query.vector) != self.space.dimension:
            raise embedding_mismatch(self.space, "", len(query.vector))
        # The order of equal scores is the index's own, so pages are identified by rank.
        before = query.after.rank if query.after else 0
        end = before + query.limit
        limit = min(MAX_RESULTS, end if query.ranking is None else max(_RANKED_CANDIDATES, end))
        if before >= limit:
            return SearchOutcome(truncated=True)
        found = await self.repository.searches.similarity_search(
            index,
            owner,
            query.vector,
            query.filter,
            limit,
            now,
            embeddings=query.include_embeddings,
            min_score=query.min_score,
        )
        if query.ranking is None:
            results = [_found(owner, hit, hit.similarity, hit.similarity) for hit in found.hits[before:]]
            return SearchOutcome(results, truncated=found.truncated, unreadable=found.unreadable)
        results = _ranked(owner, found.hits, query.ranking, query.asked_at or now)[before:end]
        truncated = found.truncated or len(found.hits) == limit
        return SearchOutcome(results, truncated=truncated, unreadable=found.unreadable)


def _found(owner: Owner, hit: Hit, score: float, similarity: float) -> Found:
    return Found(hit.record, score, similarity, NamespaceKey(owner.group_id, hit.memory_id, owner.kind))


def _ranked(owner: Owner, hits: Sequence[Hit], ranking: Ranking, now: datetime) -> list[Found]:
    if not hits:
        return []
    records = [hit.record for hit in hits]
    ages = [now - (record.created_at or UNKNOWN) for record in records]
    scores = ranking.blend(
        np.array([hit.similarity for hit in hits]),
        np.array([age.total_seconds() / _DAY_SECONDS for age in ages]),
        np.array([float(getattr(record.body, Column.IMPORTANCE, 0.0)) for record in records]),
    ).tolist()
    order = sorted(range(len(hits)), key=lambda position: (-scores[position], records[position].stored_id))
    return [_found(owner, hits[position], scores[position], hits[position].similarity) for position in order]
