"""Exact search by NumPy against the plain definition, and the bound of what is remembered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.memory.domain.filters import Filter
from services.memory.domain.searches import Query, Ranking
from services.memory.domain.vectors import unit_vector
from services.memory.stores.sql.blocks import VectorBlock, _Room
from services.memory.stores.sql.removals import RecentRemovals
from services.memory.stores.sql.vectors import Candidates, VectorCache, nearest

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


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 1000),
        st.integers(0, 40),
        st.integers(0, 60),
        st.lists(st.integers(0, 90), max_size=50, unique=True),
    ),
    min_size=1,
    max_size=6,
)


@given(st.integers(0, 1000), st.integers(0, 60), CHANGES)
@settings(max_examples=60)
def test_a_changed_block_finds_what_one_of_the_rows_left_finds(
    seed: int, count: int, changes: list[tuple[int, int, int, list[int]]]
) -> None:
    """Each block made on the way goes on finding what it found, whatever newer ones share with it."""
    left = {row.stored_id: row for row in _rows(seed, count)}
    block = _block(list(left.values()), 4)
    seen = [(block, dict(left))]
    for number, (seed_of_new, new, first, removed) in enumerate(changes):
        gone = [f"{place:064x}" for place in removed]
        added = _rows(seed_of_new, new, first=first)
        # Two processes may begin at the same block: now and then an older one is changed.
        block, rows = seen[number // 2] if seed_of_new % 3 == 0 else seen[-1]
        rows = {**rows}
        for stored_id in gone:
            rows.pop(stored_id, None)
        rows.update({row.stored_id: row for row in added})
        seen.append((block.updated(_block(added, 4), gone), rows))
    query = Query(unit_vector([1, -2, 3, 0.5]), 200)
    for block, rows in seen:
        fresh = _block(list(rows.values()), 4)
        for chosen in (Filter(), Filter(scope_prefix="/a"), Filter(include_private=True)):
            found = nearest(block, query, block.allowed(chosen, NOW_US, unified=True), NOW_US)
            expected = nearest(fresh, query, fresh.allowed(chosen, NOW_US, unified=True), NOW_US)
            assert sorted(found.ids) == sorted(expected.ids)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@pytest.mark.parametrize("column", ["created_us", "expires_us", "importance", "private", "scopes"])
def test_a_column_of_another_length_is_refused(column: str) -> None:
    values: dict[str, Any] = {"created_us": 1, "expires_us": 1, "importance": 0.5, "private": True, "scopes": "/"}
    for count in (1, 3):
        columns = {name: [value] * (count if name == column else 2) for name, value in values.items()}
        with pytest.raises(ValueError, match="values for 2 rows"):
            VectorBlock.of(1, ids=["a", "b"], embeddings=[bytes(4)] * 2, **columns)


def test_rows_are_added_in_place_while_there_is_room() -> None:
    block = VectorBlock.of(4, ids=[], embeddings=[], created_us=[]).with_room(20)
    first = block.extended(_block(_rows(1, 10), 4))
    second = first.updated(_block(_rows(2, 10, first=10), 4), [f"{0:064x}"])
    assert np.shares_memory(first.matrix, second.matrix)
    assert (len(first), len(second)) == (10, 20)
    assert first.living.all()
    assert not second.living[0]
    other = first.updated(_block(_rows(3, 5, first=30), 4))
    assert not np.shares_memory(other.matrix, second.matrix)


def test_mostly_removed_rows_make_room() -> None:
    block = _block(_rows(1, 40), 4)
    fewer = block.updated(_block([], 4), [f"{place:064x}" for place in range(30)])
    assert (len(block), len(fewer)) == (40, 10)


def test_removals_are_known_as_long_as_none_is_missing() -> None:
    removals = RecentRemovals()
    removals.note("n", 3, 1, ["a"])
    removals.note("n", 7, 3, ["b", "c"])
    assert removals.since("n", 7, 7) == []
    assert sorted(removals.since("n", 2, 7) or ()) == ["a", "b", "c"]
    assert removals.since("n", 3, 7) == ["b", "c"]
    # Another process removed something at version 9, before this one did again.
    removals.note("n", 12, 9, ["d"])
    assert removals.since("n", 10, 12) == ["d"]
    assert removals.since("n", 7, 12) is None
    assert removals.since("n", 7, 13) is None
    assert removals.since("other", 0, 1) is None
    removals.note("n", 20, 12, [str(number) for number in range(20_001)])
    assert removals.since("n", 12, 20) is None


def test_removals_are_bounded_over_all_namespaces() -> None:
    removals = RecentRemovals()
    for number in range(40):
        removals.note(f"n{number}", 1, 0, [f"{number}:{place}" for place in range(9_999)])
        assert removals.since("n0", 0, 1) is not None
        assert removals.size <= 50_000
    assert removals.since("n1", 0, 1) is None
    assert len(removals.since("n39", 0, 1) or ()) == 9_999
    removals.forget("n39")
    assert removals.since("n39", 0, 1) is None
    for number in range(6):
        removals.note("n0", number + 2, number + 1, [str(place) for place in range(9_999)])
    assert removals.since("n0", 1, 7) is None
    assert len(removals.since("n0", 5, 7) or ()) == 2 * 9_999
    assert removals.size <= 50_000


def test_a_block_is_compacted_to_what_is_there() -> None:
    rows = [VectorRow(f"{n:064x}", unit_vector([1.0]).tobytes(), n, None, 0, False, f"/{n}") for n in range(10)]
    block = _block(rows, 1).updated(_block([], 1), [f"{n:064x}" for n in (0, 9)])
    assert len(block) == 10
    compact = block.compacted()
    assert compact.nbytes < block.nbytes
    assert [compact.scopes[code] for code in compact.scope_codes] == [f"/{n}" for n in range(1, 9)]
    assert compact.ids.tolist() == [f"{n:064x}".encode() for n in range(1, 9)]
    assert compact.created_us.tolist() == list(range(1, 9))
    added = compact.updated(_block(rows[:1], 1))
    assert [added.scopes[code] for code in added.scope_codes] == [*(f"/{n}" for n in range(1, 9)), "/0"]


def test_private_rows_are_left_to_the_database_where_an_owner_asks() -> None:
    rows = [
        VectorRow("0" * 64, unit_vector([1.0]).tobytes(), 0, None, 0, True, "/"),
        VectorRow("1" * 64, unit_vector([1.0]).tobytes(), 0, None, 0, True, "/"),
        VectorRow("2" * 64, unit_vector([1.0]).tobytes(), 0, None, 0, False, "/"),
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
        VectorRow(f"{i:064x}", unit_vector([1.0]).tobytes(), created + i, expiry, 0, False, "")
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


class _Interrupted:
    """A column during whose copying another thread adds rows, too."""

    def __init__(self, rows: np.ndarray, between: Callable[[], None]) -> None:
        self._rows = rows
        self._between = between

    def __len__(self) -> int:
        return len(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._between()
        return self._rows


def test_two_threads_that_add_rows_never_write_to_the_same_place() -> None:
    room = _Room([np.zeros(1, dtype=np.int64)], 8)
    taken: list[bool] = []
    mine, theirs = np.array([1, 2]), np.array([7, 8])
    interrupted: Any = _Interrupted(mine, lambda: taken.append(room.take(1, [theirs])))
    assert room.take(1, [interrupted])
    assert taken == [False]
    assert room.arrays[0][:3].tolist() == [0, 1, 2]
