"""The meaning of filter expressions, and what can be said of one before it is evaluated."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from services.memory.domain.filters import (
    AllOf,
    AnyOf,
    Comparison,
    Condition,
    Expression,
    MetadataComparison,
    MetadataCondition,
    Not,
)
from services.memory.domain.json_equality import json_equal

_MISSING = object()


def holds(
    expression: Expression,
    condition_holds: Callable[[Condition], bool],
    metadata: Callable[[], Mapping[str, Any]],
) -> bool:
    """Return whether an expression holds for a record, given its conditions on columns and its metadata."""
    match expression:
        case AllOf(parts):
            return all(holds(part, condition_holds, metadata) for part in parts)
        case AnyOf(parts):
            return any(holds(part, condition_holds, metadata) for part in parts)
        case Not(part):
            return not holds(part, condition_holds, metadata)
        case MetadataCondition():
            return _metadata_holds(expression, metadata())
        case Condition():
            return condition_holds(expression)


def leaves(expression: Expression | None) -> Iterator[Condition | MetadataCondition]:
    """Yield the conditions an expression is made of."""
    match expression:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case Condition() | MetadataCondition():
            yield expression


def decided_by_columns(expression: Expression | None) -> bool:
    """Return whether comparisons of columns decide an expression: nothing in it asks for words or metadata."""
    return all(
        isinstance(leaf, Condition) and leaf.comparison is not Comparison.CONTAINS for leaf in leaves(expression)
    )


def required_conditions(expression: Expression | None) -> Iterator[Condition]:
    """Yield the comparisons of columns without which an expression cannot hold."""
    match expression:
        case AllOf(parts):
            for part in parts:
                yield from required_conditions(part)
        case Condition():
            yield expression


def _metadata_holds(condition: MetadataCondition, document: Mapping[str, Any]) -> bool:
    value: Any = document
    for key in condition.path:
        value = value.get(key, _MISSING) if isinstance(value, Mapping) else _MISSING
    comparison = condition.comparison
    if value is _MISSING:
        return comparison is MetadataComparison.NOT_EQUAL
    match comparison:
        case MetadataComparison.EXISTS:
            return True
        case MetadataComparison.EQUAL:
            return _is_among(value, condition)
        case MetadataComparison.NOT_EQUAL:
            return not _is_among(value, condition)
        case MetadataComparison.CONTAINS:
            return isinstance(value, list) and any(_is_among(element, condition) for element in value)
        case _:
            return _in_order(value, comparison, condition.values[0])


def _is_among(value: object, condition: MetadataCondition) -> bool:
    return any(json_equal(value, wanted) for wanted in condition.values)


def _in_order(value: Any, comparison: MetadataComparison, bound: Any) -> bool:
    numbers = _is_number(value) and _is_number(bound)
    if not numbers and not (isinstance(value, str) and isinstance(bound, str)):
        return False
    # What equals as JSON is at most and at least, however large the whole numbers are that were rounded for it.
    if json_equal(value, bound):
        return comparison in (MetadataComparison.LESS_OR_EQUAL, MetadataComparison.GREATER_OR_EQUAL)
    if comparison in (MetadataComparison.LESS, MetadataComparison.LESS_OR_EQUAL):
        return bool(value < bound)
    return bool(value > bound)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
