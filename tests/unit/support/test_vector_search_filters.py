from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vector_search_filters import FilterError, read_dict_filter, read_string_filter
from tests.support.vector_search_table import VectorTable

SCHEMA = {
    "id": "string",
    "name": "string",
    "age": "int",
    "ratio": "double",
    "on": "boolean",
    "tags": "array<string>",
    "embedding": "array<float>",
}
ROWS: list[dict[str, Any]] = [
    {"id": "1", "name": "red boat", "age": 3, "ratio": 0.5, "on": True, "tags": ["x", "y"]},
    {"id": "2", "name": "blue boat", "age": 30, "ratio": 2.0, "on": False, "tags": ["y"]},
    {"id": "3", "name": "redness", "age": 4, "ratio": -1.0, "on": True, "tags": []},
    {"id": "4", "name": "it's 50% off", "age": None},
]


def table(rows: list[dict[str, Any]] = ROWS) -> VectorTable:
    made = VectorTable(SCHEMA, "id", "embedding", 1)
    for row in rows:
        made.put(row | {"embedding": [0.0]})
    return made


def ids(condition: Any, rows: list[dict[str, Any]] = ROWS) -> str:
    made = table(rows)
    return "".join(sorted(made.cells(place, ["id"])[0] for place, _ in made.nearest([0.0], condition, 100)))


@pytest.mark.parametrize(
    ("given_filter", "expected"),
    [
        ({}, "1234"),
        ({"name": "redness"}, "3"),
        ({"name": ["redness", "red boat"]}, "13"),
        ({"name NOT": "redness"}, "124"),
        ({"name NOT": ["redness", "red boat"]}, "24"),
        ({"name LIKE": "red"}, "1"),
        ({"name LIKE": "%red%"}, "13"),
        ({"name NOT LIKE": "boat"}, "34"),
        ({"age": 3}, "1"),
        ({"age >": 3}, "23"),
        ({"age >=": 3, "age <": 30}, "13"),
        ({"age NOT": 3}, "23"),
        ({"ratio <=": 0.5}, "13"),
        ({"on": True}, "13"),
        ({"on": False}, "2"),
        ({"tags": "y"}, "12"),
        ({"name OR age": ["redness", 30]}, "23"),
        ([{"name LIKE": "%boat%"}, {"age <": 10}], "1"),
    ],
)
def test_dict_filters_pick_the_documented_rows(given_filter: Any, expected: str) -> None:
    assert ids(read_dict_filter(given_filter)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = 'redness'", "3"),
        ("name = 'it''s 50% off'", "4"),
        ("name != 'redness' AND age < 10", "1"),
        ("name <> 'redness' and age < 10", "1"),
        ("age = 3 OR age = 4 AND on = false", "1"),
        ("(age = 3 OR age = 4) AND on = true", "13"),
        ("NOT (age = 3 OR on = false)", "3"),
        ("name IN ('redness', 'blue boat')", "23"),
        ("name NOT IN ('redness', 'blue boat')", "14"),
        ("name LIKE 'red%'", "13"),
        ("name NOT LIKE 'red%'", "24"),
        ("name LIKE '_lue boat'", "2"),
        ("age IS NULL", "4"),
        ("age IS NOT NULL", "123"),
        ("NOT age IS NULL", "123"),
        ("age BETWEEN 3 AND 4", "13"),
        ("age NOT BETWEEN 3 AND 4", "2"),
        ("ratio >= -1e0 AND `ratio` <= 0.5", "13"),
    ],
)
def test_string_filters_pick_the_rows_a_where_clause_would(text: str, expected: str) -> None:
    assert ids(read_string_filter(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name =",
        "name = red",
        "name = 'open",
        "name = 'a' extra",
        "age = 1;",
        "(age = 1",
        "name IN ()",
        "1 = 1",
    ],
)
def test_a_string_filter_that_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(FilterError):
        read_string_filter(text)


@pytest.mark.parametrize(
    "given_filter",
    [
        "name = 'x'",
        3,
        [],
        [1],
        {"name": None},
        {"name": {"a": 1}},
        {"name": []},
        {"name ~": 1},
        {"name LIKE": 3},
        {"name": ["x"] * 1025},
        {"a OR b": [1, 2, 3]},
    ],
)
def test_a_dict_filter_of_another_form_is_refused(given_filter: Any) -> None:
    with pytest.raises(FilterError):
        read_dict_filter(given_filter)


@pytest.mark.parametrize(
    "given_filter",
    [{"nobody": 1}, {"embedding": 1}, {"age": "3"}, {"name": 3}, {"on": 1}, {"age": True}, {"age LIKE": "3"}],
)
def test_a_filter_that_does_not_fit_the_schema_is_refused_when_it_is_applied(given_filter: Any) -> None:
    with pytest.raises(FilterError):
        ids(read_dict_filter(given_filter))


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.text(max_size=8))
def test_a_doubled_quote_keeps_any_text_one_value(names: list[str], wanted: str) -> None:
    rows: list[dict[str, Any]] = [{"id": str(number), "name": name} for number, name in enumerate(names)]
    quoted = wanted.replace("'", "''")
    expected = "".join(row["id"] for row in rows if row["name"] == wanted)
    assert ids(read_string_filter(f"name = '{quoted}'"), rows) == expected
    assert ids(read_dict_filter({"name": wanted}), rows) == expected


_leaves = st.tuples(st.sampled_from(["age"]), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.integers(0, 5))


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=9), _leaves, _leaves, st.sampled_from(["AND", "OR"]))
def test_negation_is_the_complement_among_rows_that_have_a_value(
    ages: list[int | None], left: tuple[str, str, int], right: tuple[str, str, int], joiner: str
) -> None:
    rows: list[dict[str, Any]] = [{"id": str(number), "age": age} for number, age in enumerate(ages)]
    text = f"{left[0]} {left[1]} {left[2]} {joiner} {right[0]} {right[1]} {right[2]}"
    met, unmet = ids(read_string_filter(text), rows), ids(read_string_filter(f"NOT ({text})"), rows)
    assert not set(met) & set(unmet)
    assert set(met) | set(unmet) == {row["id"] for row in rows if row["age"] is not None}
