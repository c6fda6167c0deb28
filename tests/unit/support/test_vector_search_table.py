import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vector_search_filters import AnyOf, Compare, read_dict_filter
from tests.support.vector_search_table import VectorTable, fits

SCHEMA = {"id": "string", "group": "string", "embedding": "array<float>"}

_vectors = st.lists(st.integers(-8, 8).map(float), min_size=2, max_size=2)
_rows = st.lists(
    st.fixed_dictionaries({"id": st.sampled_from("abcdefgh"), "group": st.sampled_from("xy"), "embedding": _vectors}),
    max_size=20,
)


def filled(rows: list[dict[str, Any]]) -> VectorTable:
    table = VectorTable(SCHEMA, "id", "embedding", 2)
    for row in rows:
        table.put(row)
    return table


def ids(table: VectorTable, places: list[int]) -> list[Any]:
    return [table.cells(place, ["id"])[0] for place in places]


@given(_rows, st.sets(st.sampled_from("abcdefgh")), _vectors, st.integers(1, 9))
def test_nearest_is_what_a_full_sort_by_distance_and_key_gives(
    rows: list[dict[str, Any]], removed: set[str], query: list[float], limit: int
) -> None:
    table = filled(rows)
    for key in removed:
        table.remove(key)
    latest = {row["id"]: row for row in rows if row["id"] not in removed}
    ranked = sorted(
        (math.dist(row["embedding"], query) ** 2, key) for key, row in latest.items() if row["group"] == "x"
    )
    hits = table.nearest(query, read_dict_filter({"group": "x"}), limit)
    assert ids(table, [place for place, _ in hits]) == [key for _, key in ranked[:limit]]
    assert [score for _, score in hits] == pytest.approx([1 / (1 + squared) for squared, _ in ranked[:limit]], rel=1e-4)
    assert len(table.nearest(query, None, 100)) == len(table) == len(latest)


@given(_rows, st.integers(1, 4))
def test_scanning_page_by_page_meets_every_row_once_in_order(rows: list[dict[str, Any]], limit: int) -> None:
    table = filled(rows)
    seen: list[str] = []
    while page := ids(table, table.scan(seen[-1] if seen else None, limit)):
        seen += page
    assert seen == sorted({row["id"] for row in rows})


def test_integer_keys_are_ordered_as_numbers_and_read_from_text() -> None:
    table = VectorTable({"id": "long", "embedding": "array<float>"}, "id", "embedding", 1)
    for key in (10, 9, 100):
        table.put({"id": key, "embedding": [0.0]})
    assert ids(table, table.scan(None, 10)) == [9, 10, 100]
    assert [table.key_of(given) for given in ("9", 9, "x", True, None, "")] == [9, 9, None, None, None, None]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("x", "string", True),
        (1, "string", False),
        (None, "int", True),
        (1, "int", True),
        (True, "int", False),
        (1.5, "bigint", False),
        (1, "double", True),
        (math.inf, "double", False),
        ("1", "float", False),
        (0, "boolean", False),
        ("2026-01-31", "date", True),
        ("2026-02-31", "date", False),
        ("2026-01-31T10:00:00Z", "timestamp", True),
        ("yesterday", "timestamp", False),
        ([1, 2.5], "array<float>", True),
        ([1, None], "array<float>", False),
        (["a"], "array<float>", False),
    ],
)
def test_a_value_fits_only_a_column_of_its_type(value: Any, kind: str, expected: bool) -> None:
    assert fits(value, kind) is expected


def test_hybrid_ranks_a_row_that_matches_both_ways_first() -> None:
    table = VectorTable({"id": "string", "text": "string", "embedding": "array<float>"}, "id", "embedding", 1)
    table.put({"id": "near", "text": "cooking", "embedding": [0.0]})
    table.put({"id": "both", "text": "harbour storm", "embedding": [0.1]})
    table.put({"id": "words", "text": "storm", "embedding": [9.0]})
    found = [place for place, _ in table.hybrid([0.0], "storm harbour", [], None, 3)]
    assert ids(table, found)[0] == "both"
    assert ids(table, [place for place, _ in table.full_text("storm", [], None, 9)]) == ["words", "both"]


def test_words_count_by_all_rows_of_an_index_whoever_owns_them() -> None:
    table = VectorTable({"id": "string", "text": "string", "embedding": "array<float>"}, "id", "embedding", 1)
    for key, text in (("a", "storm"), ("b", "harbour"), ("other", "cooking")):
        table.put({"id": key, "text": text, "embedding": [0.0]})
    mine = AnyOf((Compare("id", "=", "a"), Compare("id", "=", "b")))
    found = table.full_text("storm harbour", ["text"], mine, 9)
    assert (ids(table, [place for place, _ in found]), found[0][1]) == (["a", "b"], found[1][1])
    table.put({"id": "other", "text": "storm", "embedding": [0.0]})
    assert ids(table, [place for place, _ in table.full_text("storm harbour", ["text"], mine, 9)]) == ["b", "a"]


def test_the_reranking_model_reads_the_columns_it_is_given() -> None:
    schema = {"id": "string", "text": "string", "title": "string", "embedding": "array<float>"}
    table = VectorTable(schema, "id", "embedding", 1)
    table.put({"id": "near", "text": "harbour", "title": "storm", "embedding": [0.0]})
    table.put({"id": "far", "text": "storm", "title": "harbour", "embedding": [1.0]})
    hits = table.nearest([0.0], None, 9)
    for columns, first in ((["text"], "far"), (["title"], "near")):
        ranked = table.reranked(hits, "storm", columns)
        assert ids(table, [place for place, _ in ranked])[0] == first
        assert all(0.0 <= score <= 1.0 for _, score in ranked)
