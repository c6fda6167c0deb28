"""What is a JSON schema: as jsonschema says, in far less time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, SchemaError
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

from services.orchestrator.schemas.validity import schema_error
from tests.support.growth import lines

VOCABULARIES = ("core", "applicator", "unevaluated", "validation", "meta-data", "format-annotation", "content")
BASE = "https://json-schema.org/draft/2020-12/"
KEYWORDS = sorted(
    {
        keyword
        for name in ("schema", *(f"meta/{vocabulary}" for vocabulary in VOCABULARIES))
        for keyword in REGISTRY.contents(BASE + name)["properties"]
    }
)
WORDS = st.sampled_from(["a", "b", "a#b", "#", "#/$defs/a", "object", "string", "((", "(a|b)*", "_x.1", "1x", ""])
LEAVES = st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from([0.5, 2.0, -1.0, 1e308, 10**30]) | WORDS
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS | st.sampled_from(KEYWORDS), inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS), inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


def is_schema(value: Any) -> bool:
    try:
        Draft202012Validator.check_schema(value)
    except SchemaError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(value=VALUES | st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=3))
def test_the_schema_of_schemas_says_the_same(value: Any) -> None:
    assert (schema_error(value) == "") == is_schema(value)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_every_keyword_takes_what_the_schema_of_schemas_lets_it(keyword: str) -> None:
    plain = [None, True, 0, 1, -1, 1.5, "", "a", "((", "object"]
    lists = [[], ["a"], ["a", "a"], [{}], [1], ["object"]]
    objects = [{}, {"a": {}}, {"a": ["b"]}, {"((": True}, {"a": 1}]
    for value in (*plain, *lists, *objects):
        assert (schema_error({keyword: value}) == "") == is_schema({keyword: value}), value


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ({"properties": {"id": {"type": "strin"}}}, "properties.id.type: has to be one of array, boolean, "),
        ({"items": [{}]}, "items: has to be a schema: an object, true or false"),
        ({"dependencies": {"a": {"minLength": 1.5}}}, "dependencies.a.minLength: has to be a whole number"),
        ([], "has to be a schema: an object, true or false"),
    ],
)
def test_an_error_says_where_and_what(schema: Any, error: str) -> None:
    assert schema_error(schema).startswith(error)


def test_the_largest_schemas_take_a_small_part_of_what_the_schema_of_schemas_takes() -> None:
    schema: dict[str, Any] = {"properties": {f"property{index}": {} for index in range(2_000)}}
    assert lines(schema, schema_error) < lines(schema, is_schema) / 5
