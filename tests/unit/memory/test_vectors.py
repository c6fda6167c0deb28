"""Exact search by NumPy against the plain definition, and the bound of what is remembered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.memory.domain.filters import Filter
from services.memory.domain.searches import Query, Ranking
from services.memory.domain.vectors import unit_vector
from services.memory.stores.sql.vectors import (
    Candidates,
    VectorBlock,
    VectorCache,
    nearest,
)

NOW_US = 1_800_000_000_000_000


@dataclass
class VectorRow:
    """A row before it becomes part of columns."""

    stored_id: str
    embedding: bytes
    created_us: int
    expires_us: int | None
    importance: float
    private: bool
    source: str
    scope: str


def _block(rows: Sequence[VectorRow], dimension: int) -> VectorBlock:
    return VectorBlock.of(
        dimension,
        ids=[row.stored_id for row in rows],
        embeddings=[row.embedding for row in rows],
        created_us=[row.created_us for row in rows],
        expires_us=[row.expires_us for row in rows],
        importance=[row.importance for row in rows],
        private=[row.private for row in rows],
        sources=[row.source for row in rows],
        scopes=[row.scope for row in rows],
    )


def _rows(seed: int, count: int, dimension: int = 4, first: int = 0) -> list[VectorRow]:
    random = np.random.default_rng(seed)
    # Few distinct vectors, so that equal scores are common.
    vectors = [unit_vector(v) for v in random.normal(size=(3, dimension))]
    return [
        VectorRow(
            stored_id=f"{first + i:064x}",
            embedding=vectors[int(random.integers(3))].tobytes(),
            created_us=int(NOW_US - random.integers(0, 10**13)),
            expires_us=None if random.random() < 0.7 else int(NOW_US + random.integers(-5, 5)),
            importance=float(random.random()),
            private=bool(random.random() < 0.3),
            source=f"s{random.integers(2)}",
            scope=("/", "/a", "/a/b", "/ab")[int(random.integers(4))],
        )
        for i in range(count)
    ]


def _all(block: VectorBlock) -> np.ndarray:
    return np.ones(len(block), dtype=np.bool_)


@given(st.integers(0, 1000), st.integers(0, 60), st.integers(1, 70), st.booleans(), st.none() | st.floats(-1, 1))
@settings(max_examples=60)
def test_the_nearest_are_those_of_a_full_sort(
    seed: int, count: int, limit: int, ranked: bool, min_score: float | None
) -> None:
    rows = _rows(seed, count)
    block = _block(rows, 4)
    ranking = Ranking(0.5, 0.3, 0.2, 30.0) if ranked else None
    vector = unit_vector([1, -2, 3, 0.5])
    found = nearest(block, Query(vector, limit, min_score=min_score, ranking=ranking), _all(block), NOW_US)
    similarity = np.clip((block.matrix @ vector).astype(np.float64), -1, 1)
    age = (NOW_US - block.created_us) / 86_400_000_000
    scores = similarity
    if ranked:
        scores = 0.5 * similarity + 0.3 * 0.5 ** (age / 30) + 0.2 * block.importance.astype(np.float64)
    expected = sorted(
        (-scores[i], rows[i].stored_id) for i in range(count) if min_score is None or similarity[i] >= min_score
    )[:limit]
    assert [stored_id.decode() for stored_id in found.ids] == [stored_id for _, stored_id in expected]
    np.testing.assert_allclose(found.scores, [-score for score, _ in expected], atol=1e-9)


@given(st.integers(0, 1000), st.integers(0, 50), st.integers(1, 20), st.integers(1, 15))
@settings(max_examples=60)
def test_chunks_find_what_the_whole_finds(seed: int, count: int, limit: int, chunk: int) -> None:
    rows = _rows(seed, count)
    query = Query(unit_vector([1, 1, -1, 2]), limit)
    whole = _block(rows, 4)
    best = Candidates.none()
    for start in range(0, count, chunk):
        block = _block(rows[start : start + chunk], 4)
        best = best.merged(nearest(block, query, _all(block), NOW_US), limit)
    expected = nearest(whole, query, _all(whole), NOW_US)
    np.testing.assert_allclose(best.scores, expected.scores, atol=1e-6)
    assert len(best.ids) == len(expected.ids)


@given(st.integers(0, 1000), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=60)
def test_adding_rows_gives_the_block_that_reading_all_gives(seed: int, old: int, new: int, overlap: int) -> None:
    before, after = _rows(seed, old), _rows(seed + 1, new, first=max(0, old - overlap))
    updated = _block(before, 4).updated(_block(after, 4))
    replaced = {row.stored_id for row in after}
    fresh = _block([*(row for row in before if row.stored_id not in replaced), *after], 4)
    np.testing.assert_array_equal(updated.ids, fresh.ids)
    np.testing.assert_array_equal(updated.matrix, fresh.matrix)
    for chosen in (Filter(), Filter(source="s1", scope_prefix="/a"), Filter(include_private=True, scope_prefix="/ab")):
        np.testing.assert_array_equal(
            updated.allowed(chosen, NOW_US, unified=True), fresh.allowed(chosen, NOW_US, unified=True)
        )


def test_private_rows_are_left_to_the_database_where_an_owner_asks() -> None:
    rows = [
        VectorRow("0" * 64, unit_vector([1.0]).tobytes(), 0, None, 0, True, "alice", "/"),
        VectorRow("1" * 64, unit_vector([1.0]).tobytes(), 0, None, 0, True, "", "/"),
        VectorRow("2" * 64, unit_vector([1.0]).tobytes(), 0, None, 0, False, "alice", "/"),
    ]
    block = _block(rows, 1)

    def allowed(chosen: Filter) -> list[bool]:
        return list(block.allowed(chosen, NOW_US, unified=True))

    assert allowed(Filter()) == [False, False, True]
    assert allowed(Filter(source="alice")) == [False, False, True]
    assert allowed(Filter(owner="agent:alice")) == [True, True, True]
    assert allowed(Filter(include_private=True)) == [True, True, True]


def test_expired_and_later_rows_are_left_out() -> None:
    created = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
    rows = [
        VectorRow(f"{i:064x}", unit_vector([1.0]).tobytes(), created + i, expiry, 0, False, "", "")
        for i, expiry in enumerate((None, NOW_US, NOW_US + 1))
    ]
    block = _block(rows, 1)
    assert list(block.allowed(Filter(), NOW_US, unified=False)) == [True, False, True]
    before = Filter(created_before=datetime(2026, 1, 1, microsecond=2, tzinfo=UTC))
    assert list(block.allowed(before, NOW_US, unified=False)) == [True, False, False]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 12)), max_size=40), st.integers(0, 6000))
@settings(max_examples=60)
def test_the_cache_never_holds_more_than_its_bound(puts: list[tuple[str, int]], bound: int) -> None:
    cache = VectorCache(bound)
    for version, (name, count) in enumerate(puts):
        block = _block(_rows(1, count), 4)
        cache.put(name, version, block)
        assert cache.nbytes <= bound
        held = cache.get(name)
        assert held == (version, block) if block.nbytes <= bound else held is None
    for name in "abcde":
        cache.drop(name)
    assert cache.nbytes == 0


def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    block = _block(_rows(1, 3), 4)
    cache = VectorCache(2 * block.nbytes)
    cache.put("a", 1, block)
    cache.put("b", 1, block)
    cache.get("a")
    cache.put("c", 1, block)
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_rows_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        _block(_rows(1, 3, dimension=4), 5)
