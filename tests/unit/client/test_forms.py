"""Forms of questions: what is typed becomes what the schema asks for, or is told with the field's name."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coxswain.client.cli.forms import FieldError, FormField, fields_of, filled


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "007", "007"),
        ({"type": "integer"}, "7", 7),
        ({"type": "number"}, "7.5", 7.5),
        ({"type": ["number", "null"]}, "7", 7),
        ({"type": "boolean"}, "No", False),
        ({"enum": [1, 2]}, "2", 2),
        ({"oneOf": [{"const": "no", "title": "Norway"}, {"const": "se", "title": "Sweden"}]}, "norway", "no"),
        ({"enum": ["a", "b"], "enumNames": ["First", "Second"]}, "Second", "b"),
        ({"type": "array", "items": {"enum": ["a", "b", "c"]}}, "a, c", ["a", "c"]),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({}, "[1]", [1]),
        ({}, "words", "words"),
    ],
)
def test_a_text_becomes_a_value_of_its_field(schema: dict[str, Any], text: str, value: Any) -> None:
    found = FormField("field", schema).value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "7.5"),
        ({"type": "number"}, "nan"),
        ({"type": "boolean"}, "maybe"),
        ({"enum": ["a"]}, "b"),
        ({"type": "array", "items": {"enum": ["a"]}}, "a,b"),
        ({"type": "object"}, "words"),
    ],
)
def test_what_is_no_value_is_told_with_the_field(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(FieldError, match=r"^field: expected "):
        FormField("field", schema).value(text)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    schema = {
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "string"}},
        "required": ["a", "b"],
    }
    with pytest.raises(FieldError) as error:
        filled(schema, ["a=x", "d=1", "c:={", "words"])
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["a", "d", "c", "'words'", "b"]
    assert filled(schema, ["a=1", "b=x=y"]) == {"a": 1, "b": "x=y"}


WORDS = st.sampled_from(["type", "enum", "enumNames", "oneOf", "items", "default", "title", "minimum", "const", "x"])
PLAIN = st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "array", "number", "boolean", "x"])
SCHEMAS = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner))


@given(SCHEMAS, st.text() | st.sampled_from(["yes", "1", "x", "[1]"]))
def test_no_schema_and_no_text_breaks_a_form(schema: Any, text: str) -> None:
    for field in fields_of({"properties": {"x": schema}, "required": schema}):
        assert field.line()
        with contextlib.suppress(FieldError):
            field.value(text)
