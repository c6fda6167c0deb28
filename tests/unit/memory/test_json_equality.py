"""Metadata compares as JSON values, in whichever way they were written."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.memory import filters
from services.memory.domain.filters import Filter
from services.memory.domain.json_equality import holds_number, json_equal, json_key
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.vectors import unit_vector
from services.memory.rows.building import build_row
from services.memory.rows.parsing import parse_row

SPELLINGS = st.integers(-(2**53), 2**53).map(lambda number: (str(number), f"{number}.0", f"{number}e0", f"{number}.00"))


@given(SPELLINGS, st.data())
def test_a_number_is_the_same_in_every_spelling_at_every_depth(spelled: tuple[str, ...], data: st.DataObject) -> None:
    one, other = data.draw(st.sampled_from(spelled)), data.draw(st.sampled_from(spelled))
    for around in ("{}", "[{}]", '{{"a":[null,{{"b":{}}}]}}'):
        values = json.loads(around.format(one)), json.loads(around.format(other))
        assert json_equal(*values)
        assert holds_number(values[0])
        assert not json_equal(values[0], json.loads(around.format(f'"{one}"')))
        assert not json_equal(values[0], json.loads(around.format("true")))


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.5, 1.0, -0.0])
    | st.sampled_from(["", "1", "é"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)


def _one_spelling(value: Any) -> Any:
    """Return a value in which equal JSON values are equal Python values of one type."""
    match value:
        case bool() | str() | None:
            return (type(value).__name__, value)
        case int() | float():
            return ("number", float(value))
        case list():
            return ["list", *map(_one_spelling, value)]
        case _:
            return {name: _one_spelling(item) for name, item in value.items()}


@given(JSON, JSON)
def test_equal_values_are_those_that_one_spelling_makes_equal(one: Any, other: Any) -> None:
    assert json_equal(one, other) == (_one_spelling(one) == _one_spelling(other))


KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
STORED = {
    "a": '{"n":1}',
    "b": '{"n":1.0}',
    "c": '{"n":1e0}',
    "d": '{"n":"1"}',
    "e": '{"n":true}',
    "f": '{"o":{"n":2}}',
    "g": '{"o":{"n":2.0}}',
    "j": '{"m":1e2}',
    "k": '{"m":100}',
    "l": '{"big":123456789012345678901234}',
    "m": '{"text":"123456789012345678901234"}',
}


def _row(metadata: str) -> dict[str, Any]:
    moment = datetime(2026, 6, 1, tzinfo=UTC)
    record = Record("r", Unified("text"), unit_vector([1, 0]), metadata=metadata, created_at=moment)
    return build_row(KEY, record, "test/embed")


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("n", "1", "abc"),
        ("n", "1.0", "abc"),
        ("n", '"1"', "d"),
        ("n", "true", "e"),
        ("o", '{"n":2}', "fg"),
        ("m", "100.0", "jk"),
        ("big", "123456789012345678901234", "l"),
        ("big", "1.2345678901234568e+23", "l"),
        ("text", '"123456789012345678901234"', "m"),
        ("text", "123456789012345678901234", ""),
        ("none", "1", ""),
    ],
)
def test_filters_find_values_however_rows_spell_them(name: str, value: str, found: str) -> None:
    chosen = Filter(metadata={name: value})
    assert "".join(r for r, text in STORED.items() if filters.matches(KEY.kind, chosen, _row(text))) == found


def test_digits_of_long_numbers_stay_as_they_were_written() -> None:
    for name in ("l", "m"):
        assert parse_row(KEY.kind, _row(STORED[name])).metadata == STORED[name]


_SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([1.0, 0.5, -0.0, 2.0**53, 10**400, "", "1", "a"])
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
)


@given(_VALUES, _VALUES)
def test_values_have_one_key_where_they_are_equal_and_only_there(one: Any, other: Any) -> None:
    assert (json_key(one) == json_key(other)) == json_equal(one, other)
    assert len({json_key(one), json_key(other)}) == (1 if json_equal(one, other) else 2)
