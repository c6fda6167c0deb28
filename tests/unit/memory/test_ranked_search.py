"""Pages that are counted by results, against a store that answers what a test says."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pytest

from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.searches import Found, Query, SearchMode, SearchOutcome, SearchPosition, WordQuery
from services.memory.domain.vectors import Vector, unit_vector
from services.memory.stores.base import MemoryStore
from services.memory.usecases.ranked_search import OneNamespace, search_by_rank

KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
VECTOR = unit_vector((1, 0, 0))


class Finds:
    """Finds the same records by words and by vectors, and reads at most so many of them at once."""

    def __init__(self, found: Sequence[Found], most: int = 1000) -> None:
        self.found = found
        self.most = most
        self.skipped: list[int] = []

    def _part(self, skip: int, count: int) -> SearchOutcome:
        wanted = self.found[skip : skip + count]
        return SearchOutcome(wanted[: self.most], cut=len(wanted) > self.most)

    async def search(self, _key: Any, query: Query, _now: Any) -> SearchOutcome:
        return self._part(0, query.limit)

    async def search_words(self, _key: Any, query: WordQuery, _now: Any) -> SearchOutcome:
        self.skipped.append(query.skip)
        return self._part(query.skip, query.limit)


def _found(number: int, vector: Vector | None = VECTOR) -> Found:
    return Found(Record(f"r{number}", Unified(f"text {number}"), vector), 1 - number / 100, 0.0)


async def _page(
    store: Finds, mode: SearchMode, limit: int, before: int = 0, diversity: float | None = None
) -> SearchOutcome:
    after = SearchPosition(0.0, "x", before) if before else None
    query = Query(VECTOR, limit, after=after)
    return await search_by_rank(
        OneNamespace(cast("MemoryStore", store), KEY, NOW), query, mode=mode, terms=[("text",)], diversity=diversity
    )


def _ids(outcome: SearchOutcome) -> list[str]:
    return [found.record.id for found in outcome.results]


async def test_pages_of_long_records_go_on_to_the_last_one() -> None:
    store = Finds([_found(number) for number in range(10)], most=3)
    seen: list[str] = []
    while True:
        page = await _page(store, SearchMode.TEXT, 4, len(seen))
        seen += _ids(page)
        if not page.cut and len(page.results) < 4:
            break
    assert seen == [f"r{number}" for number in range(10)]
    assert store.skipped == [0, 3, 6, 9]


@pytest.mark.parametrize(("mode", "diversity"), [(SearchMode.HYBRID, None), (SearchMode.VECTOR, 0.5)])
async def test_a_choice_among_records_too_long_to_be_read_says_so(mode: SearchMode, diversity: float | None) -> None:
    records = [_found(number, unit_vector((1, number, 0))) for number in range(10)]
    cut = await _page(Finds(records, most=3), mode, 3, diversity=diversity)
    assert (len(cut.results), cut.truncated, cut.cut) == (3, True, False)
    assert not (await _page(Finds(records), mode, 3, diversity=diversity)).truncated


async def test_rows_without_a_comparable_vector_are_left_out_of_a_choice_and_counted() -> None:
    odd = [_found(1, None), _found(2, np.ones(2, dtype=np.float32))]
    store = Finds([_found(0), *odd, _found(3, unit_vector((0, 1, 0)))])
    outcome = await _page(store, SearchMode.VECTOR, 10, diversity=0.5)
    assert (_ids(outcome), outcome.unreadable) == (["r0", "r3"], 2)
    nothing = await _page(Finds(odd[:1]), SearchMode.VECTOR, 10, diversity=0.5)
    assert (_ids(nothing), nothing.unreadable) == ([], 1)
    # Words find them, and nothing can be compared with the query.
    hybrid = await _page(Finds([_found(0), *odd]), SearchMode.HYBRID, 10)
    assert [found.similarity for found in hybrid.results] == [1.0, 0.0, 0.0]
