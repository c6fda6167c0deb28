"""Schemas that are none are told from those that are."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError

from services.models.usecases.schema_form import schema_faults

values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["string", "object", "text", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "anyOf", "required", "enum", "minLength", "a", "not"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def is_one(schema: Any) -> bool:
    for draft in (Draft202012Validator, Draft7Validator):
        try:
            draft.check_schema(schema)
        except SchemaError:
            continue
        return True
    return False


@given(st.dictionaries(st.sampled_from(["type", "properties", "items", "anyOf", "enum", "const"]), values, max_size=4))
def test_no_schema_of_a_draft_is_refused_and_no_value_breaks_the_check(schema: dict[str, Any]) -> None:
    if schema_faults("schema", schema):
        assert not is_one(schema)


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ({"type": []}, ["s.type"]),
        ({"type": ["string", "nothing"]}, ["s.type"]),
        ({"properties": {"a": 7}}, ["s.properties.a"]),
        ({"items": [{"type": "x"}]}, ["s.items[0].type"]),
        ({"allOf": []}, ["s.allOf"]),
        ({"required": [1]}, ["s.required"]),
        ({"enum": "a"}, ["s.enum"]),
        ({"minLength": -1}, ["s.minLength"]),
        ({"multipleOf": 0}, ["s.multipleOf"]),
        ({"minimum": "0"}, ["s.minimum"]),
        ({"$defs": {"a": {"not": {"type": "x"}}}}, ["s.$defs.a.not.type"]),
        ({"const": {"type": "x"}, "default": {"type": "x"}, "examples": [{"type": "x"}]}, []),
        ({"properties": {"type": {"type": "string"}, "required": {"type": "boolean"}}}, []),
        ({"additionalProperties": False, "items": True, "x-own": {"type": "x"}}, []),
        ({"exclusiveMinimum": True, "minimum": 1.5, "maxItems": 2.0}, []),
    ],
)
def test_faults_are_named_by_path(schema: dict[str, Any], paths: list[str]) -> None:
    assert [fault.field for fault in schema_faults("s", schema)] == paths


def test_of_many_faults_the_first_are_told() -> None:
    assert len(schema_faults("s", {"anyOf": [{"type": "x"}] * 1000})) == 10
