"""Values are compared with schemas as `jsonschema` does it, but for what would take for ever or be too exact."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.orchestrator.schemas.violations import schema_violations

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 0.5, "a", "b", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "ab"]), inner, max_size=3),
    max_leaves=6,
)
RULES: list[dict[str, Any]] = [
    {"uniqueItems": True},
    {"multipleOf": 2},
    {"multipleOf": 0.5},
    {"pattern": "^a"},
    {"patternProperties": {"^a": {"type": "integer"}}},
    {"properties": {"a": {}}, "additionalProperties": False},
    {"properties": {"a": {}}, "patternProperties": {"b$": {}}, "additionalProperties": {"type": "null"}},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@given(value=VALUES)
def test_rules_of_our_own_agree_with_the_library(rule: dict[str, Any], value: Any) -> None:
    schema = {"anyOf": [{"type": "object"}, rule], **rule, "items": rule}
    assert bool(schema_violations(schema)(value)) != Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "value", "told"),
    [
        ({"multipleOf": 0.1}, 0.3, []),
        ({"multipleOf": 0.1}, 0.35, ["0.35 is not a multiple of 0.1 (multipleOf: 0.1)"]),
        ({"multipleOf": 0.1}, 10**400, ["does not follow multipleOf: 0.1"]),
        ({"multipleOf": 0.5}, float("inf"), ["inf is not a multiple of 0.5 (multipleOf: 0.5)"]),
        ({"pattern": "(?=a)"}, "b", []),
        ({"multipleOf": 0.01}, 5_000_000.07, []),
        ({"multipleOf": 0.01}, 100000000.005, ["100000000.005 is not a multiple of 0.01 (multipleOf: 0.01)"]),
        ({"$ref": "#/$defs/none"}, 1, []),
        ({"$ref": "#/$defs/none", "type": "null"}, 1, ["1 is not of type 'null'"]),
        (
            {"title": "x", "$ref": "#/title"},
            1,
            ["it cannot be compared with the schema: 'str' object has no attribute 'items'"],
        ),
        (
            {"allOf": [{}], "$ref": "#/allOf/x"},
            1,
            ["it cannot be compared with the schema: invalid literal for int() with base 10: 'x'"],
        ),
        ({"maxItems": 1}, [0] * 300, ["does not follow maxItems: 1"]),
        (
            {"properties": {"a": {"items": {"type": "null"}}}},
            {"a": [1] * 9},
            [f"a[{n}]: 1 is not of type 'null'" for n in range(5)],
        ),
    ],
)
def test_violations_say_where_and_what(schema: dict[str, Any], value: Any, told: list[str]) -> None:
    assert schema_violations(schema)(value) == told


def test_a_value_that_is_nested_too_deeply_follows_no_schema_that_goes_along() -> None:
    value: Any = 1
    for _ in range(5_000):
        value = [value]
    assert schema_violations({"items": {"$ref": "#"}})(value) == [
        "it is nested too deeply to be compared with the schema"
    ]


def test_neither_a_pattern_nor_many_items_take_for_ever() -> None:
    hostile = "a" * 50_000 + "!"
    items = [{"n": number} for number in range(20_000)]
    started = time.process_time()
    assert schema_violations({"patternProperties": {"^(a+)+$": False}, "additionalProperties": False})({hostile: 1})
    assert not schema_violations({"uniqueItems": True})(items)
    assert time.process_time() - started < 60
