"""Results are compared with their schema as it is written, without what their class leaves out."""

import json
from typing import Any

import pytest

from services.orchestrator.worker.crew.result_class import result_class
from services.orchestrator.worker.crew.usable_answers import Unusable, schema_reader

Json = dict[str, Any]


def holding(part: Json) -> Json:
    """A schema with one property of a schema."""
    return {"type": "object", "properties": {"held": part}, "required": ["held"]}


ONE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TWO = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FEW = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "given", "kept"),
    [
        # Closed alternatives are told apart by what they do not have.
        (holding({"oneOf": [ONE, TWO]}), {"held": {"a": 1, "b": 2}}, {"held": {"a": 1, "b": 2}}),
        (holding({"oneOf": [ONE, TWO]}), {"held": {"a": 1}}, {"held": {"a": 1}}),
        (holding({"oneOf": [ONE, TWO]}), {"held": {"a": 1, "b": 2, "note": "x"}}, {"held": {"a": 1, "b": 2}}),
        ({**TWO, "not": ONE}, {"a": 1, "b": 2, "note": "x"}, {"a": 1, "b": 2}),
        # What is left out is not counted.
        ({**FEW, "maxProperties": 1}, {"a": 1, "note": "x"}, {"a": 1}),
        ({**FEW, "propertyNames": {"enum": ["a"]}}, {"a": 1, "note": "x"}, {"a": 1}),
        ({**FEW, "dependentRequired": {"note": ["b"]}}, {"a": 1, "note": "x"}, {"a": 1}),
        # What a condition asks for is there, beside what nothing asks for.
        (
            {**FEW, "if": {}, "then": {"properties": {"b": {}}, "required": ["b"]}, "unevaluatedProperties": False},
            {"a": "1", "b": 2, "note": "x"},
            {"a": 1},
        ),
        # Alternatives that are conditions alone do not change what is read.
        (
            holding({**TWO, "required": [], "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            {"held": {"b": "2", "note": "x"}},
            {"held": {"a": None, "b": 2}},
        ),
    ],
)
def test_a_schema_holds_of_what_is_left_of_an_answer(schema: Json, given: Json, kept: Json) -> None:
    assert schema_reader(result_class(schema))(json.dumps(given)).model_dump() == kept


@pytest.mark.parametrize(
    ("schema", "given"),
    [
        (holding({"oneOf": [FEW, TWO]}), {"held": {"a": 1, "b": 2}}),
        ({**FEW, "maxProperties": 0}, {"a": 1, "note": "x"}),
        ({**FEW, "minProperties": 2, "additionalProperties": False}, {"a": 1, "note": "x"}),
        (
            holding({**TWO, "required": [], "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            {"held": {"note": "x"}},
        ),
    ],
)
def test_an_answer_that_cannot_follow_is_unusable(schema: Json, given: Json) -> None:
    with pytest.raises(Unusable):
        schema_reader(result_class(schema))(json.dumps(given))


@pytest.mark.parametrize("alternative", [{"required": ["p"]}, {"properties": {"q": {}}}], ids=["condition", "object"])
def test_the_class_of_nested_alternatives_does_not_grow_with_their_power(alternative: Json) -> None:
    schema: Json = {"type": "string"}
    for _ in range(12):
        schema = {"type": "object", "properties": {"p": schema}, "anyOf": [alternative] * 4}
    assert result_class(schema).model_fields.keys() == {"p"}
