"""Searches whose results differ from each other, on any store."""

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Final

import numpy as np

from services.memory.domain.diversity import diversified
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.searches import Query, SearchOutcome
from services.memory.stores.base import MemoryStore

CANDIDATES: Final = 200
"""Results that a choice is made from: the same on every page, so that pages continue each other."""


async def search_diversely(
    store: MemoryStore, key: NamespaceKey, query: Query, diversity: float, now: datetime
) -> SearchOutcome:
    """Return a page of the best candidates in the order of maximal marginal relevance.

    Pages are counted by results: the page after a position begins with the result after its rank.
    """
    pool = replace(query, limit=CANDIDATES, include_embeddings=True, after=None)
    found = await store.search(key, pool, now)
    before = query.after.rank if query.after else 0
    end = before + query.limit
    vectors = [result.record.embedding for result in found.results if result.record.embedding is not None]
    if len(vectors) <= before:
        return replace(found, results=(), cut=False)
    scores = [result.score for result in found.results]
    order = await asyncio.to_thread(diversified, np.stack(vectors), scores, diversity, end)
    results = [found.results[position] for position in order[before:]]
    if not query.include_embeddings:
        for result in results:
            result.record.embedding = None
    return replace(
        found,
        results=results,
        cut=end < len(scores),
        truncated=found.truncated or found.cut or len(scores) == CANDIDATES,
    )
