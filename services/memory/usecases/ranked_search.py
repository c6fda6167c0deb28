"""Searches whose pages are counted by results: by words, by words and vectors, and for results that differ."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from services.memory.domain.diversity import diversified
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.searches import Found, Query, SearchMode, SearchOutcome, WordQuery
from services.memory.domain.vectors import Vector
from services.memory.domain.words import Term
from services.memory.stores.base import MemoryStore

CANDIDATES: Final = 200
"""Results that a choice is made from: the same on every page, so that pages continue each other."""
MOST_RESULTS: Final = 10_000
RERANKED: Final = 50
"""Results that a model puts in order."""
_SMOOTHING = 60
"""The constant of reciprocal rank fusion, as it was published and is used everywhere."""
_BEST_RANK = 1 / (_SMOOTHING + 1)

_Find: TypeAlias = Callable[[int, int, bool], Awaitable[SearchOutcome]]
"""Finds the best from one place to another, with or without their vectors."""
Rerank: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[str]]]
"""Puts stored ids in order."""


class Searched(Protocol):
    """What is searched as one: a namespace, or several of one embedding space."""

    async def near(self, query: Query) -> SearchOutcome:
        """Return the records nearest to a vector, best first."""
        ...

    async def worded(self, query: WordQuery) -> SearchOutcome:
        """Return the records that have the most of some words, best first."""
        ...


@dataclass(frozen=True, slots=True)
class OneNamespace:
    """One namespace of a store, as it is at a time."""

    store: MemoryStore
    key: NamespaceKey
    now: datetime

    async def near(self, query: Query) -> SearchOutcome:
        """See `Searched`."""
        return await self.store.search(self.key, query, self.now)

    async def worded(self, query: WordQuery) -> SearchOutcome:
        """See `Searched`."""
        return await self.store.search_words(self.key, query, self.now)


async def search_by_rank(
    searched: Searched,
    query: Query,
    *,
    mode: SearchMode,
    terms: Sequence[Term],
    diversity: float | None,
    text: str = "",
    rerank: Rerank | None = None,
) -> SearchOutcome:
    """Return a page of what a search finds; the page after a position begins with the result after its rank.

    `text` is what the terms were read from. With a diversity results come in the order of maximal marginal relevance.
    With `rerank` the best 50 come in the order that it gives their stored ids. The query's vector is not looked at by
    mode TEXT.
    """
    find = _finder(searched, query, mode, terms, text)
    before = query.after.rank if query.after else 0
    end = before + query.limit
    bounded = mode is SearchMode.HYBRID or diversity is not None or rerank is not None
    count = CANDIDATES if bounded else min(end, MOST_RESULTS)
    if rerank is not None and mode is not SearchMode.HYBRID:
        count = RERANKED
    # What earlier pages have shown is read again only where it takes part in the choice.
    skip = 0 if bounded else before
    if skip >= count:
        return SearchOutcome(truncated=True)
    found = await find(skip, count, query.include_embeddings or diversity is not None)
    results, full = found.results, skip + len(found.results) >= count and (bounded or count == MOST_RESULTS)
    if diversity is not None:
        vectors, results = _with_vectors(results)
        found = replace(found, unreadable=found.unreadable + len(found.results) - len(results), results=results)
        if len(results) > before:
            order = await asyncio.to_thread(diversified, vectors, [result.score for result in results], diversity, end)
            results = [results[position] for position in order]
    if rerank is not None:
        results = await _reranked(results[:RERANKED], rerank)
        found = replace(found, results=results, cut=found.cut or len(found.results) > RERANKED)
    shown = results[before - skip : end - skip]
    if not query.include_embeddings:
        for result in shown:
            if result.record.embedding is not None:
                result.record.embedding = None
    # Candidates that were cut off are on no page: the choice was made without them.
    more = end < len(found.results) if bounded else found.cut and bool(shown)
    return replace(found, results=shown, cut=more, truncated=found.truncated or full or (bounded and found.cut))


def _finder(searched: Searched, query: Query, mode: SearchMode, terms: Sequence[Term], text: str) -> _Find:
    async def by_vector(_skip: int, count: int, embeddings: bool) -> SearchOutcome:
        return await searched.near(replace(query, limit=count, include_embeddings=embeddings, after=None))

    async def by_words(skip: int, count: int, embeddings: bool) -> SearchOutcome:
        if not terms:
            return SearchOutcome()
        return await searched.worded(WordQuery(terms, count - skip, query.filter, embeddings, skip, text))

    async def by_both(skip: int, count: int, embeddings: bool) -> SearchOutcome:
        # What words find is compared with the query here: its vector may not be near enough to be found by it.
        worded, near = await asyncio.gather(by_words(skip, count, True), by_vector(skip, count, embeddings))
        return SearchOutcome(
            _joined([worded, near], query.vector),
            scanned=worded.scanned + near.scanned,
            truncated=near.truncated,
            cut=worded.cut or near.cut,
            unreadable=max(worded.unreadable, near.unreadable),
        )

    match mode:
        case SearchMode.VECTOR:
            return by_vector
        case SearchMode.HYBRID:
            return by_both
        case SearchMode.TEXT:
            return by_words


def _joined(outcomes: list[SearchOutcome], vector: Vector) -> list[Found]:
    ranks: dict[Hashable, float] = {}
    found: dict[Hashable, Found] = {}
    for outcome in outcomes:
        for rank, result in enumerate(outcome.results, start=1):
            place = result.key, result.record.stored_id or result.record.id
            ranks[place] = ranks.get(place, 0.0) + 1 / (_SMOOTHING + rank)
            found[place] = result
    # Of equal ones those that words found first stay first: a number that is there word for word is what was meant.
    order = sorted(found, key=lambda place: -ranks[place])
    best = _BEST_RANK * len(outcomes)
    return [replace(_compared(found[place], vector), score=ranks[place] / best) for place in order]


async def _reranked(results: Sequence[Found], rerank: Rerank) -> list[Found]:
    """Return results in another order; scores say their places, as nobody documents what those of a model mean."""
    by_id = {found.record.stored_id: found for found in results}
    order = await rerank(list(by_id)) if by_id else ()
    return [replace(by_id[stored_id], score=1.0 - place / RERANKED) for place, stored_id in enumerate(order)]


def _with_vectors(results: Sequence[Found]) -> tuple[npt.NDArray[np.float32], Sequence[Found]]:
    """Return the results that can be compared with each other and their vectors, as rows.

    A row that something else has written may have no vector, or one of another length than the rest.
    """
    lengths = Counter(len(found.record.embedding) for found in results if found.record.embedding is not None)
    if not lengths:
        return np.empty((0, 0), dtype=np.float32), ()
    [(length, _)] = lengths.most_common(1)
    pairs = [
        (found.record.embedding, found)
        for found in results
        if found.record.embedding is not None and len(found.record.embedding) == length
    ]
    return np.stack([vector for vector, _ in pairs]), [found for _, found in pairs]


def _compared(found: Found, vector: Vector) -> Found:
    """Return what words found with its similarity; what vectors found has it."""
    if found.record.embedding is None or len(found.record.embedding) != len(vector):
        return found
    return replace(found, similarity=float(np.clip(found.record.embedding @ vector, -1.0, 1.0)))
