"""What filter expressions mean, what of them SQL decides, and how a faulty one is refused."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from coxswain.memory.v1 import filter_expression_pb2 as pb
from services.common.errors import InvalidArgument
from services.memory import expressions, filters
from services.memory.domain.filters import (
    AllOf,
    AnyOf,
    Comparison,
    Condition,
    Expression,
    Filter,
    MetadataComparison,
    MetadataCondition,
    Not,
    search_words,
)
from services.memory.domain.json_equality import json_key
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.vectors import unit_vector
from services.memory.expressions import decided_by_columns, holds, leaves, required_conditions
from services.memory.filters import columns_needed, residual
from services.memory.rows.building import build_row
from services.memory.servicers.messages.expressions import expression_from_proto

DOCUMENT = {
    "n": 1,
    "deep": {"n": 2.0, "list": [1, "1", {"k": None}]},
    "text": "b",
    "null": None,
    "large": 123456789012345678901234,
}
BIG = Condition("importance", Comparison.GREATER, (0.5,))
WORDS = Condition("content", Comparison.CONTAINS, ("storm",))
THERE = MetadataCondition(("n",), MetadataComparison.EXISTS)


def _holds(expression: Expression) -> bool:
    return holds(expression, lambda condition: condition is BIG, lambda: DOCUMENT)


@pytest.mark.parametrize(
    ("path", "comparison", "values", "expected"),
    [
        ("n", "EQUAL", [1.0], True),
        ("n", "EQUAL", ["1", True], False),
        ("n", "EQUAL", ["x", 1], True),
        ("n", "NOT_EQUAL", [1.0], False),
        ("n", "NOT_EQUAL", ["1"], True),
        ("none", "NOT_EQUAL", [1], True),
        ("none", "EQUAL", [None], False),
        ("null", "EQUAL", [None], True),
        ("null", "EXISTS", [], True),
        ("none", "EXISTS", [], False),
        ("n.deeper", "EXISTS", [], False),
        ("deep.n", "EXISTS", [], True),
        ("deep.n", "LESS", [2], False),
        ("deep.n", "LESS_OR_EQUAL", [2], True),
        ("deep.n", "GREATER", [1], True),
        ("deep.n", "GREATER_OR_EQUAL", [3], False),
        ("deep.n", "GREATER", ["1"], False),
        ("null", "LESS", [1], False),
        ("none", "LESS", [1], False),
        ("text", "GREATER", ["a"], True),
        ("text", "LESS", ["é"], True),
        ("text", "LESS", [1], False),
        ("large", "GREATER_OR_EQUAL", [123456789012345678901234.0], True),
        ("large", "GREATER", [123456789012345678901234.0], False),
        ("deep.list", "CONTAINS", [1.0], True),
        ("deep.list", "CONTAINS", [{"k": None}], True),
        ("deep.list", "CONTAINS", [True, 2], False),
        ("text", "CONTAINS", ["b"], False),
    ],
)
def test_values_within_metadata(path: str, comparison: str, values: list[Any], expected: bool) -> None:
    assert _holds(MetadataCondition(tuple(path.split(".")), MetadataComparison[comparison], tuple(values))) is expected


def test_and_or_and_not() -> None:
    assert _holds(AllOf((BIG, THERE)))
    assert not _holds(AllOf((BIG, WORDS)))
    assert _holds(AnyOf((WORDS, THERE)))
    assert not _holds(AnyOf((WORDS, Not(THERE))))
    assert _holds(Not(AllOf((BIG, WORDS))))


def test_what_sql_leaves_to_be_decided() -> None:
    assert decided_by_columns(Not(AnyOf((BIG, BIG))))
    assert residual(Filter(expression=Not(BIG))) is None
    for undecided in (AnyOf((BIG, WORDS)), Not(THERE)):
        rest = residual(Filter(expression=undecided))
        assert rest is not None
        assert rest.expression == undecided
    both = Filter(expression=AnyOf((BIG, Not(AllOf((WORDS, THERE))))), include_private=True)
    assert list(leaves(both.expression)) == [BIG, WORDS, THERE]
    assert columns_needed(MemoryKind.UNIFIED, both) == ["content", "importance", "metadata"]


def test_only_what_must_hold_is_required() -> None:
    assert list(required_conditions(AllOf((BIG, AnyOf((WORDS,)), AllOf((WORDS,)), Not(BIG))))) == [BIG, WORDS]
    assert list(required_conditions(None)) == []


def _read(document: dict[str, Any]) -> Expression:
    return expression_from_proto(ParseDict(document, pb.FilterExpression()), MemoryKind.UNIFIED, "filter.expression")


def test_an_expression_is_read() -> None:
    read = _read(
        {
            "any_of": {
                "expressions": [
                    {"negated": {"metadata": {"path": ["a", "b"], "values": [1, "x"]}}},
                    {"condition": {"column": "content", "values": [{"text": "storm"}]}},
                ]
            }
        }
    )
    assert read == AnyOf(
        (
            Not(MetadataCondition(("a", "b"), MetadataComparison.EQUAL, (1, "x"))),
            Condition("content", Comparison.EQUAL, ("storm",)),
        )
    )


def _nested(depth: int) -> dict[str, Any]:
    expression: dict[str, Any] = {"metadata": {"path": ["a"], "operator": "METADATA_OPERATOR_EXISTS"}}
    for _ in range(depth - 1):
        expression = {"negated": expression}
    return expression


def _metadata(operator: str, *values: Any) -> dict[str, Any]:
    condition = {"path": ["a"], "operator": f"METADATA_OPERATOR_{operator}", "values": list(values)}
    return {"all_of": {"expressions": [_nested(1), {"metadata": condition}]}}


_SECOND = "filter.expression.all_of.expressions[1]"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (_metadata("LESS", True), f"{_SECOND}.metadata.values[0]"),
        (_metadata("LESS", 1, 2), f"{_SECOND}.metadata.values"),
        (_metadata("EQUAL"), f"{_SECOND}.metadata.values"),
        (_metadata("EXISTS", 1), f"{_SECOND}.metadata.values"),
        (_metadata("EQUAL", "x", {"deep": [float("inf")]}), f"{_SECOND}.metadata.values[1].deep[0]"),
        ({"all_of": {"expressions": [_nested(1), {}]}}, _SECOND),
        (
            {"negated": {"condition": {"column": "group_id", "values": [{"text": "x"}]}}},
            "filter.expression.negated.condition.column",
        ),
        (_nested(9), "filter.expression" + ".negated" * 8),
        ({"all_of": {"expressions": [{"any_of": {"expressions": [_nested(1)] * 64}}] * 4}}, "filter.expression"),
    ],
)
def test_a_faulty_part_is_named(document: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _read(document)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_the_bounds_themselves_are_taken() -> None:
    assert len(list(leaves(_read(_nested(8))))) == 1
    parts = [{"any_of": {"expressions": [_nested(1)] * 50}}] * 5
    assert len(list(leaves(_read({"all_of": {"expressions": parts}})))) == 250


def test_what_many_conditions_compare_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def counted(value: object) -> Any:
        seen.append(value)
        return json_key(value)

    conditions = [
        MetadataCondition(("deep", "list"), comparison, (["none"], number))
        for number in range(50)
        for comparison in (MetadataComparison.EQUAL, MetadataComparison.CONTAINS)
    ]
    monkeypatch.setattr(expressions, "json_key", counted)
    assert not _holds(AnyOf((*conditions[:2], *conditions[4:])))
    # The list as a whole, and its three elements.
    assert len(seen) == 4


def test_a_text_is_read_once_for_all_words_that_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    key = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
    record = Record(
        "r", Unified("The storm passes"), unit_vector([1, 0, 0]), created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    row = build_row(key, record, "m")
    conditions = [Condition("content", Comparison.CONTAINS, (word,)) for word in ("STORM", "the", "passes storm")]
    seen: list[str] = []

    def counted(text: str) -> frozenset[str]:
        seen.append(text)
        return search_words(text)

    monkeypatch.setattr(filters, "search_words", counted)
    chosen = Filter(tuple(conditions), expression=AllOf(tuple(conditions)), include_private=True)
    assert filters.matches(MemoryKind.UNIFIED, chosen, row)
    assert seen == ["The storm passes"]
